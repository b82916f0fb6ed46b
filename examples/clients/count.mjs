// Count hits from Node.js: `await count("/jobs/resize", 3)` returns once they are counted. Or: node count.mjs PATH [HITS]
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const socket = connect(process.env.HITLEDGER_INTAKE_SOCKET ?? ".hitledger/intake.sock");
const waiting = []; // answers come in the order of the lines
socket.unref(); // a program may end while the connection is open, but not while an answer is awaited
createInterface({ input: socket }).on("line", (answer) => {
  waiting.shift()?.(answer);
  if (!waiting.length) socket.unref();
});
socket.on("error", () => {}).on("close", () => waiting.splice(0).forEach((take) => take("no answer: counted or not")));

export const count = (path, hits = 1) =>
  new Promise((resolve, reject) => {
    waiting.push((answer) => (answer === "ok" ? resolve() : reject(new Error(answer))));
    socket.ref();
    socket.write(`${hits} ${path}\n`, (error) => error && reject(error));
  });

const isProgram = process.argv[1] === fileURLToPath(import.meta.url);
if (isProgram) await count(...process.argv.slice(2)).finally(() => socket.end());
