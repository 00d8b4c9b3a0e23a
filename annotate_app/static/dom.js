// Small helpers. Texts from the server only ever become text nodes.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'class') element.className = value;
    else if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export class HttpError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function getJson(url) {
  const response = await fetch(url);
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new HttpError(response.status, answer.error || `the server answered ${response.status}`);
  }
  return response.json();
}

export async function getBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new HttpError(response.status, `the server answered ${response.status}`);
  return response.arrayBuffer();
}

export async function postJson(url, body) {
  const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new HttpError(response.status, answer.error || `the server answered ${response.status}`);
  return answer;
}
