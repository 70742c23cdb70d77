// The two processes beside a gateway: a model server that speaks Ollama's protocol, and the least proxy there can be.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Agent, request as ask } from 'undici';

/** `upstream`, or `proxy` and the address of the upstream. */
const [role, target = ''] = process.argv.slice(2);
/** By the text of the prompt: when the client of it left. */
const left: Record<string, number> = {};

const server = createServer((request, response) => {
  response.on('error', () => undefined);
  void (role === 'proxy' ? proxy(request, response) : model(request, response));
});
server.listen(0, '127.0.0.1', () => process.send?.((server.address() as AddressInfo).port));
process.once('disconnect', () => process.exit(0));

const agent = new Agent({ headersTimeout: 0, bodyTimeout: 0 });

async function proxy(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  try {
    const { statusCode, body } = await ask(`${target}${request.url}`, {
      method: 'POST',
      dispatcher: agent,
      signal: gone.signal,
      headers: { 'content-type': 'application/json' },
      body: request,
    });
    response.writeHead(statusCode, { 'content-type': 'application/x-ndjson' });
    body.on('error', () => response.destroy());
    body.pipe(response);
  } catch {
    response.destroy();
  }
}

async function model(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.url === '/left') return void response.end(JSON.stringify(left));
  if (request.url === '/api/version') return void response.end('{"version":"0"}');
  if (request.url === '/api/tags') return void response.end('{"models":[]}');
  let text = '';
  for await (const part of request) text += String(part);
  const {
    model: kind,
    messages,
    options,
  } = JSON.parse(text) as {
    model: string;
    messages: { content: string }[];
    options: { num_predict?: number };
  };
  const prompt = messages[0]?.content ?? '';
  response.once('close', () => {
    if (!response.writableFinished) left[prompt] = Date.now();
  });
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  response.flushHeaders();
  if (kind === 'silent') return;
  if (kind === 'flood') {
    flood(response);
    return;
  }
  // `paced-20`: so many tokens in a second; `instant`: all at once.
  const everyMs = kind === 'instant' ? 0 : 1000 / Number(kind.split('-')[1] ?? 50);
  pace(response, options.num_predict ?? 16, everyMs);
}

function line(content: string): string {
  const message = { role: 'assistant', content };
  return `${JSON.stringify({ model: 'm', created_at: '2026-01-01T00:00:00.000000Z', message, done: false })}\n`;
}

function pace(response: ServerResponse, tokens: number, everyMs: number): void {
  let sent = 0;
  const step = (): void => {
    if (response.destroyed) return;
    if (sent < tokens) {
      response.write(line(` token${sent++}`));
      if (everyMs === 0) step();
      else setTimeout(step, everyMs);
      return;
    }
    response.end(
      `${JSON.stringify({ model: 'm', message: { role: 'assistant', content: '' }, done: true, done_reason: 'stop', prompt_eval_count: 9, eval_count: tokens })}\n`,
    );
  };
  step();
}

function flood(response: ServerResponse): void {
  const big = line('x'.repeat(32 * 1024));
  const pump = (): void => {
    while (!response.destroyed) {
      if (!response.write(big)) {
        response.once('drain', pump);
        return;
      }
    }
  };
  pump();
}
