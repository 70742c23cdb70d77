import { type Command, Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { collect, integerFrom, numberFrom, positiveNumber } from '../terminal/usage.js';

/** Models that answer: served to other programs, or asked from the terminal. */
export function register(program: Command, define: DefineCommand): void {
  define(
    program,
    'serve [model]',
    "serve models of this machine to OpenAI's clients (a .gguf file, or a name)",
    (command) =>
      engineOptions(command)
        .addOption(new Option('-p, --port <port>', '0 for any').argParser(integerFrom(0, 65_535)).default(8080))
        .option('--host <address>', 'where it listens; a key is needed where others reach it', '127.0.0.1')
        .option('--api-key <key>', 'clients send it as a bearer token (better: OCTOMIL_SERVE_KEY)')
        .option('--models <file>', 'models.yaml, or names and paths with commas between, from small to large')
        .option('--auto-route', 'load all models at once, for the model "auto", which chooses by the question')
        .option('--parallel <n>', 'answers at once of each model (default: 4)', integerFrom(1, 256))
        .option('--max-queue <n>', 'requests that may wait for a model; more hear 429', integerFrom(0), 32)
        .option('--idle-unload <seconds>', 'take a model out of memory when unused (default: never)', positiveNumber)
        .option('--state-dir <folder>', 'of an agent: what it has activated is served at /v1/predict')
        .option('--cors <origin>', 'a web page that may ask, such as https://app.example; repeat for more', collect)
        .option('--allow-host <name>', 'another name of this server, such as that of a proxy; repeat', collect),
    async (options, model) => (await import('./serve.js')).serve(options, model),
  );
  define(
    program,
    'run [prompt]',
    'answer a prompt, or what is piped in, with a model of this machine',
    (command) =>
      samplingOptions(engineOptions(modelOption(command)))
        .option('-s, --system <text>', 'how to answer')
        .option('--max-output-tokens <n>', 'at most so long (default: what the context holds)', integerFrom(1))
        .option('--schema <file>', 'JSON Schema; the answer is JSON that matches it')
        .option('--no-stream', 'write the answer when it is whole')
        .option('--explain', 'say why which model answers'),
    async (options, prompt) => (await import('./run.js')).run(options, prompt),
  );
  define(
    program,
    'embed [inputs...]',
    'make vectors of texts, or of each line that is piped in',
    (command) =>
      engineOptions(modelOption(command)).addOption(
        new Option('--jsonl', 'print a line of JSON for each').conflicts('json'),
      ),
    async (options, ...inputs) => (await import('./embed.js')).embed(options, inputs.flat()),
  );
  define(
    program,
    'chat [model]',
    'talk with a model of this machine; /exit ends, /reset forgets, Ctrl-C stops an answer',
    (command) =>
      samplingOptions(engineOptions(command))
        .option('-s, --system <text>', 'how to answer')
        .option('--max-tokens <n>', 'each answer is at most so long', integerFrom(1), 2048),
    async (options, model) => (await import('./chat.js')).chat(options, model),
  );
  define(
    program,
    'transcribe <file>',
    'write down what is said in a recording, by a server or a program of yours',
    (command) =>
      command
        .option('-m, --model <name>', 'of the server', 'whisper-1')
        .option('--language <code>', 'what is spoken, such as en')
        .option('--timeout <seconds>', 'give up after this', positiveNumber, 600)
        .addHelpText(
          'after',
          '\nOPENAI_API_ENDPOINT (and OPENAI_API_KEY) name an OpenAI-compatible server; OCTOMIL_TRANSCRIBE_COMMAND is a program\n' +
            'as a JSON array, such as ["whisper-cli","-nt","-f","{input}"], and goes first.',
        ),
    async (options, path = '') => (await import('./transcribe.js')).transcribe(options, path),
  );
}

function modelOption(command: Command): Command {
  return command.option('-m, --model <model>', 'a .gguf file, or a name; "auto": by the question');
}

function engineOptions(command: Command): Command {
  return command
    .option('--context <tokens>', 'of prompt and answer (default: 4096, or what the model knows)', integerFrom(64))
    .option('--threads <n>', 'default: one less than there are cores', integerFrom(1))
    .option('--draft <model>', 'a small model with the same vocabulary that proposes tokens');
}

function samplingOptions(command: Command): Command {
  return command
    .option('-t, --temperature <x>', '0 takes the likeliest token; up to 2', numberFrom(0, 2), 0.7)
    .option('--top-p <x>', 'share of the likeliest tokens that count', numberFrom(0.000001, 1), 0.9)
    .option('--seed <n>', 'the same answer each time', integerFrom(0));
}
