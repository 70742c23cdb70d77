import type { ChatMessage } from '@octomil/inference/engine';
import { generateAnswer, samplingOf } from '../inference/answer.js';
import { converse } from '../inference/conversation.js';
import type { LocalModels } from '../inference/local-models.js';
import { withModels } from '../inference/with-models.js';
import type { Options } from '../program.js';
import { say } from '../terminal/out.js';
import { plain } from '../terminal/plain.js';

/**
 * Talks with a model. What is piped in is a question a line; with `--json` each answer is a line of JSON.
 *
 * @returns 130 when it was interrupted while nothing was answered
 */
export function chat(options: Options, model: string | undefined): Promise<number> {
  const { stdin, stdout, stderr } = process;
  const { json, system } = options;
  const isTerminal = stdin.isTTY === true && json !== true;
  return withModels(model, options, async (models, signal) => {
    // What is wrong with a model is better known before the first question.
    if (models.names.length === 1) await models.open(models.names, signal);
    if (isTerminal) stderr.write(`${models.names.join(', ')}: /exit ends, /reset forgets, Ctrl-C stops an answer.\n`);
    const interrupted = await converse({
      input: stdin,
      output: stdout,
      isTerminal,
      system: typeof system === 'string' ? system : undefined,
      signal,
      answer: (messages, turn, said) => answer(models, options, { messages, turn, said }),
      note: (text) => stderr.write(plain(`${text}\n`)),
    });
    return interrupted ? 130 : 0;
  });
}

interface Turn {
  readonly messages: readonly ChatMessage[];
  readonly turn: AbortSignal;
  readonly said: (text: string) => void;
}

async function answer(models: LocalModels, options: Options, { messages, turn, said }: Turn): Promise<void> {
  const isJson = options['json'] === true;
  let heard = '';
  const hear = async (text: string): Promise<void> => {
    heard += text;
    said(text);
    if (!isJson) await say(text);
  };
  const { names, decision } = models.choose(messages, true);
  const quick = decision?.deterministicResult;
  let whole: object;
  if (quick === undefined) {
    const { name, engine } = await models.open(names, turn);
    const request = {
      input: { messages },
      maxTokens: Number(options['maxTokens']),
      ...samplingOf(options),
      responseFormat: { type: 'text' as const },
    };
    const generated = await generateAnswer(engine, request, turn, hear).catch(async (error: unknown) => {
      // What comes next begins on a line of its own.
      if (heard !== '' && !isJson) await say('\n');
      throw error;
    });
    whole = { model: name, role: 'assistant', ...generated };
  } else {
    await hear(quick.answer);
    whole = { model: null, role: 'assistant', text: quick.answer, finishReason: 'stop', method: quick.method };
  }
  if (isJson) await say(`${JSON.stringify(whole)}\n`);
  else if (!heard.endsWith('\n')) await say('\n');
}
