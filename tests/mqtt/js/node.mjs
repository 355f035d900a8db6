// node node.mjs '{"url": ..., "version": ..., "topic": ..., "options": {...}}': prints what the habits saw, as JSON.

import mqtt from "mqtt";
import { readFileSync } from "node:fs";
import { run } from "./habits.mjs";

const wanted = JSON.parse(process.argv[2]);
if (wanted.ca) wanted.options.ca = readFileSync(wanted.ca);
console.log(JSON.stringify(await run(mqtt, wanted)));
