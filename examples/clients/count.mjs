// Count hits from Node.js: `await count("/jobs/resize", 3)` returns once they are counted. Or: node count.mjs PATH [HITS]
import { connect } from "node:net";
import { createInterface } from "node:readline";

const socket = connect(process.env.HITLEDGER_INTAKE_SOCKET ?? ".hitledger/intake.sock");
const waiting = []; // answers come in the order of the lines
createInterface({ input: socket }).on("line", (answer) => waiting.shift()?.(answer));
socket.on("error", () => {}).on("close", () => waiting.splice(0).forEach((take) => take("no answer: counted or not")));

export const count = (path, hits = 1) =>
  new Promise((resolve, reject) => {
    waiting.push((answer) => (answer === "ok" ? resolve() : reject(new Error(answer))));
    socket.write(`${hits} ${path}\n`, (error) => error && reject(error));
  });

if (process.argv[2]) await count(...process.argv.slice(2)).finally(() => socket.end());
