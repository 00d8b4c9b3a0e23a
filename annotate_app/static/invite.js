// The page behind an invitation: the token comes from the address behind '#', which no server log ever sees.

import { getJson, HttpError } from './dom.js';

const at = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const field = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (at(id));

/** Whether the typed passwords keep every rule; marks the rules that are kept. */
function checkRules() {
  const [password, name, again] = ['password', 'username', 'again'].map((id) => field(id).value);
  const rules = {
    length: [...password].length >= 8,
    different: new Set(password).size >= 5,
    name: password !== '' && !(name.length > 2 && password.toLowerCase().includes(name.toLowerCase())),
    same: password !== '' && password === again,
  };
  for (const [rule, kept] of Object.entries(rules)) document.querySelector(`[data-rule="${rule}"]`)?.classList.toggle('kept', kept);
  return Object.values(rules).every((kept) => kept);
}

/** What went wrong, as a sentence: the server's one-liners begin small and end without a stop. @param {unknown} error @param {string} unreachable */
function sentence(error, unreachable) {
  if (!(error instanceof HttpError)) return unreachable;
  const { message } = error;
  return message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? '' : '.');
}

/** An invitation that cannot be used: say why, and offer the login. @param {string} text */
function refuse(text) {
  at('state').textContent = text;
  at('form').hidden = true;
  at('login').hidden = false;
}

/** @param {Event} event @param {string} token */
async function submit(event, token) {
  event.preventDefault();
  if (!checkRules()) {
    at('error').textContent = 'The password does not keep every rule above.';
    return;
  }
  const button = /** @type {HTMLButtonElement} */ (document.querySelector('button'));
  button.disabled = true;
  at('error').textContent = '';
  try {
    await getJson('invite', { token, password: field('password').value });
    history.replaceState(null, '', location.pathname); // the used token stays in no history
    location.replace('./');
  } catch (error) {
    at('error').textContent = sentence(error, 'The server cannot be reached; nothing was changed. Try again.');
    button.disabled = false;
  }
}

async function start() {
  const token = location.hash.slice(1);
  if (!token) {
    refuse('The end of this address is missing. Open the whole link that the study office sent you.');
    return;
  }
  try {
    const { username } = /** @type {{username: string}} */ (await getJson('invite', { token }));
    field('username').value = username;
    at('state').textContent = 'Welcome. Choose a password; this link works once.';
    at('form').hidden = false;
    field('password').focus();
  } catch (error) {
    refuse(sentence(error, 'The server cannot be reached. Load this page again.'));
    return;
  }
  at('form').addEventListener('input', checkRules);
  at('form').addEventListener('submit', (event) => submit(event, token));
}

addEventListener('hashchange', () => location.reload());
start();
