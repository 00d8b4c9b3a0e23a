// Requests that wait until the server answers, and the login when the session has ended.

import { login } from './dialogs.js';
import { HttpError } from './dom.js';

/** @import { ScoringPage } from './scoring.js' */

export class Connection {
  /** @type {Promise<void> | null} */
  loggingIn = null;

  /** @param {ScoringPage} page */
  constructor(page) {
    this.page = page;
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
          this.page.frame.status(`Offline (${this.page.outbox.size})`, 'offline');
          await new Promise((resolve) => { setTimeout(resolve, wait); });
        }
      }
    }
  }

  /** Log in on the page; several requests that are refused share one dialog. */
  login() {
    this.loggingIn ??= login(this.page.base, this.page.outbox.size).then(() => {
      this.loggingIn = null;
      return this.page.loggedIn();
    });
    return this.loggingIn;
  }
}
