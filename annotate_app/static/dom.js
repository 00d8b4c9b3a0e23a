// Elements and requests. Texts from the server only ever become text nodes.

/** @typedef {{[K in keyof GlobalEventHandlersEventMap as `on${K}`]?: (event: GlobalEventHandlersEventMap[K]) => unknown} & {[name: string]: unknown}} Properties */
/** @typedef {Node | string | null | undefined} Child */

/**
 * Fill an element: `on…` adds a listener, true sets an attribute without a value; false, null and undefined set nothing.
 * @template {Element} E
 * @param {E} element
 * @param {Properties} properties
 * @param {Child[]} children
 */
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/**
 * A new HTML element.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Properties} [properties]
 * @param {Child[]} children
 */
export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);

/** A new SVG element. @param {keyof SVGElementTagNameMap} tag @param {Properties} [properties] @param {Child[]} children */
export const s = (tag, properties = {}, ...children) => fill(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, children);

/** @param {number} n @param {string} [noun] "1 set", "2 sets" */
export const plural = (n, noun = 'set') => `${n} ${noun}${n === 1 ? '' : 's'}`;

/** The server refused: its status, and its own line of text. */
export class HttpError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Fetch; a refusal rejects with HttpError, an unreachable server with TypeError.
 * @param {URL | string} url
 * @param {object} [body] posted as JSON; without it the request is a GET
 */
async function request(url, body) {
  const response = await fetch(url, body && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new HttpError(response.status, answer.error || `the server answered ${response.status}`);
}

/** @template T @param {URL | string} url @param {object} [body] @returns {Promise<T>} */
export const getJson = async (url, body) => (await request(url, body)).json();
/** @param {URL} url */
export const getBytes = async (url) => (await request(url)).arrayBuffer();
