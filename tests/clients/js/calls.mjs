// Every call of Replicate's JavaScript client.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import Replicate, { validateWebhook } from "replicate";

const MODEL = "tencentarc/gfpgan";
const VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3";
const NAME = `js-${process.env.SUFFIX}`;

const replicate = new Replicate({ baseUrl: process.env.REPLICATE_BASE_URL });
const img = await readFile(process.env.PHOTO); // 8 x 6 pixels
const input = { img, version: "v1.4", scale: 2 };

async function bytes(output) {
  const chunks = [];
  for await (const chunk of output) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function assertPng(data, width, height) {
  assert.equal(data.subarray(1, 4).toString(), "PNG");
  assert.deepEqual([data.readUInt32BE(16), data.readUInt32BE(20)], [width, height]);
}

function receiveOne(start) {
  return new Promise((resolve, reject) => {
    const server = createServer(async (request, response) => {
      let body = "";
      for await (const chunk of request) body += chunk;
      response.end();
      server.close();
      resolve({ headers: request.headers, body });
    }).listen(0, "localhost", () => start(`http://localhost:${server.address().port}/hook`).catch(reject));
  });
}

const calls = {
  async runWithAVersionAndABuffer() {
    const output = await replicate.run(`${MODEL}:${VERSION}`, { input });
    assertPng(await bytes(output), 16, 12);
  },
  async runWithTheModelsNameAndABlob() {
    const output = await replicate.run(MODEL, { input: { ...input, img: new Blob([img]), scale: 3 } });
    assertPng(Buffer.from(await (await output.blob()).arrayBuffer()), 24, 18);
  },
  async runPollingGivesAUrl() {
    const seen = [];
    const output = await replicate.run(`${MODEL}:${VERSION}`, { input, wait: { mode: "poll", interval: 50 } }, (p) =>
      seen.push(p.status)
    );
    assertPng(Buffer.from(await (await fetch(output)).arrayBuffer()), 16, 12); // it needs no token
    assert.equal(seen.at(-1), "succeeded");
  },
  async runWithAWaitThatIsTooShortPolls() {
    const slow = { ...input, seconds: 1.5 };
    const output = await replicate.run(`${MODEL}:${VERSION}`, { input: slow, wait: { mode: "block", timeout: 1 } });
    assertPng(await bytes(output), 16, 12);
  },
  async aFailingModelThrows() {
    const broken = replicate.run(`${MODEL}:${VERSION}`, { input: { img: Buffer.from("not a photo") } });
    await assert.rejects(broken, /cannot identify/);
  },
  async problemsCarryTheStatus() {
    const unknown = replicate.predictions.create({ version: "0".repeat(64), input: { img: "https://x.test/a.jpg" } });
    await assert.rejects(unknown, (error) => error.response.status === 422);
  },
  async theDataUriStrategySendsTheClientItselfAndIsRefused() {
    const broken = new Replicate({ baseUrl: process.env.REPLICATE_BASE_URL, fileEncodingStrategy: "data-uri" });
    await assert.rejects(broken.run(MODEL, { input }), (error) => error.response.status === 422);
  },
  async aPredictionWithAWebhook() {
    const { headers, body } = await receiveOne((webhook) =>
      replicate.predictions.create({ version: VERSION, input, webhook, webhook_events_filter: ["completed"] })
    );
    const { key: secret } = await replicate.webhooks.default.secret.get();
    const [id, timestamp, signature] = ["id", "timestamp", "signature"].map((name) => headers[`webhook-${name}`]);
    assert.equal(await validateWebhook({ id, timestamp, signature, body, secret }), true);
    assert.equal(await validateWebhook({ id, timestamp, signature, body: `${body} `, secret }), false);
    const prediction = await replicate.predictions.get(JSON.parse(body).id);
    assert.equal(prediction.status, "succeeded");
  },
  async aRunningPredictionIsCanceled() {
    let made = await replicate.predictions.create({ version: VERSION, input: { ...input, seconds: 20 } });
    while (!made.logs) made = await replicate.predictions.get(made.id);
    await replicate.predictions.cancel(made.id);
    assert.equal((await replicate.wait(made, { interval: 50 })).status, "canceled");
  },
  async aStreamGivesAFile() {
    const events = [];
    for await (const event of replicate.stream(`${MODEL}:${VERSION}`, { input })) events.push(event);
    assert.equal(events.at(-1).event, "done");
    const output = events.find(({ event }) => event === "output");
    assertPng(await bytes(output.data), 16, 12);
  },
  async predictionsAreListedPageByPage() {
    const made = await replicate.predictions.create({ model: MODEL, input });
    const ids = [];
    for await (const page of replicate.paginate(replicate.predictions.list)) ids.push(...page.map(({ id }) => id));
    assert.ok(ids.includes(made.id));
    assert.equal(new Set(ids).size, ids.length);
  },
  async models() {
    const model = await replicate.models.create("local", NAME, { visibility: "private", hardware: "gpu-t4" });
    assert.equal((await replicate.models.get("local", NAME)).url, model.url);
    assert.ok((await replicate.models.list()).results.some(({ name }) => name === NAME));
    assert.ok((await replicate.models.search("gfpgan")).results.some(({ name }) => name === "gfpgan"));
    assert.equal((await replicate.models.versions.get("tencentarc", "gfpgan", VERSION)).id, VERSION);
    assert.ok((await replicate.models.versions.list("tencentarc", "gfpgan")).results.length > 0);
  },
  async deployments() {
    const setup = { name: NAME, model: MODEL, version: VERSION, hardware: "gpu-t4", min_instances: 0, max_instances: 1 };
    await replicate.deployments.create(setup);
    const updated = await replicate.deployments.update("local", NAME, { max_instances: 2 });
    assert.equal(updated.current_release.number, 2);
    assert.ok((await replicate.deployments.list()).results.some(({ name }) => name === NAME));
    const made = await replicate.deployments.predictions.create("local", NAME, { input, wait: 5 });
    assert.equal(made.status, "succeeded");
    assert.equal((await replicate.deployments.get("local", NAME)).owner, "local");
  },
  async trainings() {
    await replicate.models.create("local", `${NAME}-trained`, { visibility: "private", hardware: "cpu" });
    const destination = `local/${NAME}-trained`;
    const training = await replicate.trainings.create("tencentarc", "gfpgan", VERSION, { destination, input: { x: 1 } });
    assert.equal((await replicate.trainings.get(training.id)).id, training.id);
    assert.ok((await replicate.trainings.list()).results.some(({ id }) => id === training.id));
    assert.equal((await replicate.trainings.cancel(training.id)).id, training.id);
  },
  async files() {
    const file = await replicate.files.create(img, { a: 1 });
    assert.equal(file.size, img.length);
    assert.deepEqual((await replicate.files.get(file.id)).checksums, file.checksums);
    assert.ok((await replicate.files.list()).results.some(({ id }) => id === file.id));
    assert.equal(await replicate.files.delete(file.id), true);
  },
  async theRest() {
    assert.equal((await replicate.accounts.current()).username, "local");
    assert.ok((await replicate.hardware.list()).some(({ sku }) => sku === "gpu-t4"));
    for (const { slug, name } of (await replicate.collections.list()).results) {
      assert.equal((await replicate.collections.get(slug)).name, name);
    }
  },
};

for (const [name, call] of Object.entries(calls)) {
  try {
    await call();
    console.log("ok", name);
  } catch (error) {
    process.exitCode = 1;
    console.log("FAILED", name, error);
  }
}
