import type { ChatMessage } from '@octomil/inference/engine';
import { type Answer, generateAnswer, samplingOf } from '../inference/answer.js';
import { converse } from '../inference/conversation.js';
import { type LocalModels, localModels } from '../inference/local-models.js';
import type { Options } from '../program.js';
import { interruptible } from '../terminal/interrupt.js';
import { readerGone, say } from '../terminal/out.js';

/**
 * Talks with a model. What is piped in is a question a line; with `--json` each answer is a line of JSON.
 *
 * @returns 130 when it was interrupted while nothing was answered
 */
export async function chat(options: Options, model: string | undefined): Promise<number> {
  const { json, system, maxTokens } = options;
  const { stdin, stdout, stderr } = process;
  const isTerminal = stdin.isTTY === true && json !== true;
  const interrupt = interruptible();
  const gone = readerGone();
  const signal = AbortSignal.any([interrupt.signal, gone]);
  let models: LocalModels | undefined;
  try {
    const opened = await localModels(model, options, signal);
    models = opened;
    // What is wrong with a model is better known before the first question.
    if (opened.names.length === 1) await opened.open(opened.names);
    if (isTerminal) stderr.write(`${opened.names.join(', ')}: /exit ends, /reset forgets, Ctrl-C stops an answer.\n`);
    const speak = async (
      messages: readonly ChatMessage[],
      turn: AbortSignal,
      said: (text: string) => void,
    ): Promise<void> => {
      const { names, decision } = opened.choose(messages, true);
      const quick = decision?.deterministicResult;
      let name: string | null = null;
      let answer: Partial<Answer> = { text: quick?.answer ?? '', finishReason: 'stop' };
      let heard = quick?.answer ?? '';
      if (quick === undefined) {
        const chosen = await opened.open(names);
        name = chosen.name;
        const request = {
          input: { messages },
          maxTokens: Number(maxTokens),
          ...samplingOf(options),
          responseFormat: { type: 'text' as const },
        };
        try {
          answer = await generateAnswer(chosen.engine, request, turn, async (text) => {
            heard += text;
            said(text);
            if (json !== true) await say(text);
          });
        } catch (error) {
          if (isTerminal && heard !== '') stdout.write('\n');
          throw error;
        }
      } else {
        said(quick.answer);
        if (json !== true) await say(quick.answer);
      }
      if (json === true) await say(`${JSON.stringify({ model: name, role: 'assistant', ...answer })}\n`);
      else if (!heard.endsWith('\n')) await say('\n');
    };
    const interrupted = await converse({
      input: stdin,
      output: stdout,
      isTerminal,
      system: typeof system === 'string' ? system : undefined,
      signal,
      answer: speak,
      note: (text) => stderr.write(`${text}\n`),
    });
    return interrupted ? 130 : 0;
  } catch (error) {
    if (gone.aborted) return 0;
    throw error;
  } finally {
    await models?.stop();
    interrupt.release();
  }
}
