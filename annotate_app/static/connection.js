// Requests that wait until the server answers, and the login when the session has ended.

import { login } from './dialogs.js';
import { HttpError } from './dom.js';

/**
 * @typedef {object} ConnectionListener
 * @property {() => number} unsent entries that wait for the server
 * @property {() => void} offline the server does not answer; it is tried again
 * @property {() => Promise<void>} loggedIn somebody, perhaps somebody else, has logged in
 */

export class Connection {
  /** @type {Promise<void> | null} */
  loggingIn = null;

  /** @param {URL} base address of the reading room @param {ConnectionListener} on */
  constructor(base, on) {
    this.base = base;
    this.on = on;
  }

  /**
   * Repeat a request until the server answers; a 401 opens the login. Rejects with what the server refuses otherwise.
   * @template T
   * @param {() => Promise<T>} request
   */
  async whenReachable(request) {
    for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
      try {
        return await request();
      } catch (error) {
        const status = error instanceof HttpError ? error.status : 500;
        if (status === 401) await this.login();
        else if (status < 500) throw error;
        else {
          this.on.offline();
          await new Promise((resolve) => { setTimeout(resolve, wait); });
        }
      }
    }
  }

  /** Log in on the page; several requests that are refused share one dialog. */
  login() {
    this.loggingIn ??= login(this.base, this.on.unsent()).then(() => {
      this.loggingIn = null;
      return this.on.loggedIn();
    });
    return this.loggingIn;
  }
}
