// Replicate's JavaScript client: run with a file, write the output to disk, validate a webhook.
//
// node run_and_save.mjs photo.jpg restored.png

import { createServer } from "node:http";
import { readFile, writeFile } from "node:fs/promises";
import Replicate, { validateWebhook } from "replicate";

const MODEL = "tencentarc/gfpgan";
const VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3";

const replicate = new Replicate({ baseUrl: process.env.REPLICATE_BASE_URL }); // JavaScript has no such variable of its own
const [photo, restored] = process.argv.slice(2);
const img = await readFile(photo);

const output = await replicate.run(`${MODEL}:${VERSION}`, { input: { img, scale: 2 } });
await writeFile(restored, output);
console.log(`wrote ${restored}`);

const { key } = await replicate.webhooks.default.secret.get();
const received = new Promise((resolve) => {
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    response.end();
    server.close();
    const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature } = request.headers;
    const valid = await validateWebhook({ id, timestamp, signature, body, secret: key });
    resolve({ valid, prediction: JSON.parse(body) });
  }).listen(0, "localhost", async () => {
    await replicate.predictions.create({
      version: VERSION,
      input: { img, scale: 2 },
      webhook: `http://localhost:${server.address().port}/webhook`,
      webhook_events_filter: ["completed"],
    });
  });
});
const { valid, prediction } = await received;
console.log(`webhook for ${prediction.id}: ${valid ? "valid" : "INVALID"}, ${prediction.status}, ${prediction.output}`);
