// The openai package for Node.js on the gateway. HEADRACE_URL: the gateway; FAKE_URL: the engine behind it.
const test = require("node:test");
const assert = require("node:assert/strict");
const OpenAI = require("openai");
const { zodFunction, zodResponseFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const model = "m";
const messages = [{ role: "user", content: "hello there" }];
const options = { baseURL: `${process.env.HEADRACE_URL}/v1`, apiKey: process.env.HEADRACE_KEY, maxRetries: 0, timeout: 20_000 };
const client = new OpenAI(options);

const engine = (path, method = "POST") => fetch(`${process.env.FAKE_URL}/fake/${path}`, { method }).then((r) => r.json());
const said = (content) => [{ role: "user", content }];

const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string", enum: ["Riga"] } }, required: ["city"] },
  },
};

async function freed(work) {
  const before = (await engine("stats", "GET")).aborted;
  await work();
  const began = performance.now();
  await engine(`aborted?n=${before + 1}`, "GET");
  await engine("idle", "GET");
  assert.ok(performance.now() - began < 250, "A01: the engine is free within 250 ms");
}

test("a chat is answered with its request id", async () => {
  const { data, response, request_id } = await client.chat.completions.create({ model, messages }).withResponse();
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.equal(data.usage.completion_tokens, 16);
  assert.equal(request_id, response.headers.get("x-request-id"));
  assert.equal(data._request_id, request_id);
});

test("a stream adds up to the whole answer, and has usage if asked for", async () => {
  const whole = await client.chat.completions.create({ model, messages, seed: 4 });
  const stream = await client.chat.completions.create({
    model, messages, seed: 4, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, 16);
});

test("letters of several bytes survive any cut", async () => {
  const text = "Grüße, 世界 🌍\n\nand on";
  const stream = client.chat.completions.stream({ model, messages, fake: { text, split: "byte" } });
  assert.equal(await stream.finalContent(), text);
});

test("arguments of a tool call stream piece by piece", async () => {
  const stream = await client.chat.completions.create({
    model, messages, tools: [weather], tool_choice: "required", stream: true,
  });
  const pieces = [];
  for await (const chunk of stream) {
    for (const call of chunk.choices[0]?.delta?.tool_calls ?? []) pieces.push(call.function.arguments);
  }
  assert.ok(pieces.length > 2);
  assert.deepEqual(JSON.parse(pieces.join("")), { city: "Riga" });
});

test("the tool runner calls a function and goes on with its result", async () => {
  const asked = [];
  const runner = client.chat.completions.runTools({
    model,
    messages: said('please call weather {"city": "Oslo"}'),
    tools: [{
      type: "function",
      function: { ...weather.function, parse: JSON.parse, function: (given) => (asked.push(given), "rain") },
    }],
  });
  assert.ok(await runner.finalContent());
  assert.deepEqual(asked, [{ city: "Oslo" }]);
});

test("structured output is parsed, as an answer, a stream and a tool call", async () => {
  const City = z.object({ name: z.string(), people: z.number().int().min(3) });
  const response_format = zodResponseFormat(City, "city");
  const answer = await client.chat.completions.parse({ model, messages, response_format });
  assert.deepEqual(answer.choices[0].message.parsed, { name: "", people: 3 });
  const final = await client.chat.completions.stream({ model, messages, response_format }).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, { name: "", people: 3 });
  const tools = [zodFunction({ name: "add_city", parameters: City })];
  const called = await client.chat.completions.parse({ model, messages: said("call add_city"), tools });
  assert.deepEqual(called.choices[0].message.tool_calls[0].function.parsed_arguments, { name: "", people: 3 });
});

test("embeddings are the same as numbers and as base64", async () => {
  const packed = await client.embeddings.create({ model, input: ["a", "b"] });
  const numbers = await client.embeddings.create({ model, input: ["a", "b"], encoding_format: "float" });
  assert.equal(packed.data.length, 2);
  packed.data[1].embedding.forEach((value, i) => assert.ok(Math.abs(value - numbers.data[1].embedding[i]) < 1e-6));
});

test("legacy completions and models work", async () => {
  const answer = await client.completions.create({ model, prompt: "one", max_tokens: 3 });
  assert.equal(answer.choices[0].finish_reason, "length");
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).owned_by, "headrace");
});

const refused = (work, kind, code) =>
  assert.rejects(work, (error) => {
    assert.equal(error.constructor, kind);
    assert.equal(error.code, code);
    return true;
  });

test("errors are of the right class and say what is wrong", async () => {
  const create = (more) => client.chat.completions.create({ model, messages, ...more });
  await refused(create({ max_tokens: 0 }), OpenAI.BadRequestError, "invalid_request");
  await refused(create({ model: "none" }), OpenAI.NotFoundError, "model_not_found");
  await refused(create({ model: "closed" }), OpenAI.PermissionDeniedError, "model_not_allowed");
  await refused(create({ fake: { status: 429, retry_after: 2 } }), OpenAI.RateLimitError, "rate_limit_exceeded");
  await refused(create({ fake: { status: 500 } }), OpenAI.InternalServerError, "upstream_error");
  const stranger = new OpenAI({ ...options, apiKey: "wrong" });
  await refused(stranger.chat.completions.create({ model, messages }), OpenAI.AuthenticationError, "invalid_api_key");
});

test("an engine that dies in a stream raises after the tokens it sent", async () => {
  const stream = await client.chat.completions.create({ model, messages, stream: true, fake: { die_after: 3, itl: 0.005 } });
  let tokens = 0;
  await assert.rejects(async () => {
    for await (const chunk of stream) tokens += chunk.choices[0]?.delta?.content ? 1 : 0;
  }, (error) => error instanceof OpenAI.APIError && error.code === "upstream_died");
  assert.equal(tokens, 3);
});

test("aborting a stream, leaving its loop and a time-out free the engine", async () => {
  const endless = { model, messages, stream: true, fake: { output_tokens: 5000, itl: 0.005 } };
  await freed(async () => {
    const stream = await client.chat.completions.create(endless);
    for await (const chunk of stream) if (chunk.choices[0]?.delta?.content) break;
  });
  await freed(async () => {
    const controller = new AbortController();
    const stream = await client.chat.completions.create(endless, { signal: controller.signal });
    for await (const chunk of stream) if (chunk.choices[0]?.delta?.content) controller.abort();
  });
  await freed(() =>
    assert.rejects(
      client.chat.completions.create({ model, messages, fake: { ttft: 9 } }, { timeout: 400 }),
      OpenAI.APIConnectionTimeoutError,
    ),
  );
});
