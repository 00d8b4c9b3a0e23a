// The page behind an invitation: the token comes from the address behind '#', which no server log ever sees.

const RULES = {
  length: (password) => [...password].length >= 8,
  different: (password) => new Set(password).size >= 5,
  name: (password, name) => password !== "" && !(name.length > 2 && password.toLowerCase().includes(name.toLowerCase())),
  same: (password, _name, again) => password !== "" && password === again,
};

const at = (id) => document.getElementById(id);

/** POST to this page's own address; returns {ok, body}. */
async function send(content) {
  const answer = await fetch("invite", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(content),
  });
  return { ok: answer.ok, body: await answer.json() };
}

/** Whether the typed passwords keep every rule; marks the rules that are kept. */
function checkRules() {
  const typed = [at("password").value, at("username").value, at("again").value];
  let kept = true;
  for (const [name, holds] of Object.entries(RULES)) {
    const row = document.querySelector(`[data-rule="${name}"]`);
    const good = holds(...typed);
    row.classList.toggle("kept", good);
    kept = kept && good;
  }
  return kept;
}

/** The server's one-liners as they stand on a page. */
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** An invitation that cannot be used: say why, and offer the login. */
function refuse(text) {
  at("state").textContent = sentence(text);
  at("form").hidden = true;
  at("login").hidden = false;
}

async function submit(event, token) {
  event.preventDefault();
  if (!checkRules()) {
    at("error").textContent = "The password does not keep every rule above.";
    return;
  }
  const button = document.querySelector("button");
  button.disabled = true;
  at("error").textContent = "";
  try {
    const { ok, body } = await send({ token, password: at("password").value });
    if (ok) {
      history.replaceState(null, "", location.pathname); // the used token stays in no history
      location.replace("./");
      return;
    }
    at("error").textContent = sentence(body.error);
  } catch {
    at("error").textContent = "The server cannot be reached; nothing was changed. Try again.";
  }
  button.disabled = false;
}

async function start() {
  const token = location.hash.slice(1);
  if (!token) {
    refuse("This address lacks its last part. Open the whole link that the study office sent you.");
    return;
  }
  try {
    const { ok, body } = await send({ token });
    if (!ok) {
      refuse(body.error);
      return;
    }
    at("username").value = body.username;
    at("state").textContent = "Welcome. Choose a password; this link works once.";
    at("form").hidden = false;
    at("password").focus();
  } catch {
    refuse("The server cannot be reached. Load this page again.");
    return;
  }
  at("form").addEventListener("input", checkRules);
  at("form").addEventListener("submit", (event) => submit(event, token));
}

addEventListener("hashchange", () => location.reload());
start();
