/* The server's routes: JSON, the key, and the events of a job. */
import { $ } from "./words.js";

/* An answer that is an error; param: the name in the request that is wrong. status 0: no answer came. */
export class Failure extends Error {
  constructor(message, status, param) {
    super(message);
    this.status = status;
    this.param = param || (/^"(\w+)"/.exec(message) || [])[1];
  }
}

let key = sessionStorage.getItem("key") || "";
export function set_key(value) {
  key = value;
  sessionStorage.setItem("key", value);
}

async function call(method, path, body) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = "Bearer " + key;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch (error) {
    throw new Failure(error.message, 0);
  }
  if (answer.ok) return answer;
  const { message, param } = await answer.json().then(data => data.error, () => ({ message: `HTTP ${answer.status}` }));
  if (answer.status === 401) $("keyfield").hidden = false;
  throw new Failure(message, answer.status, param);
}
export async function asked(method, path, body) {
  return (await call(method, path, body)).json();
}

/* Calls on_state with the states of a job until it is over, and on_lost whenever the connection
   breaks; it is made again then. Failure where there is no such job. */
export async function follow(id, on_state, on_lost) {
  for (let pause = 1; ; pause = Math.min(2 * pause, 15)) {
    try {
      if (await events(id, state => { pause = 1; on_state(state); })) return;
    } catch (error) {
      if (error instanceof Failure && error.status && error.status < 500) throw error;
    }
    on_lost();
    await new Promise(later => setTimeout(later, 1000 * pause));
  }
}
async function events(id, on_state) {
  const answer = await call("GET", `v1/jobs/${id}/events`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return false;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find(one => one.startsWith("data: "));
      if (line === "data: [DONE]") return true;
      if (line) on_state(JSON.parse(line.slice(6)));
    }
  }
}
