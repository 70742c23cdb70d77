import { createInterface } from 'node:readline';
import type { ChatMessage } from '@octomil/inference/engine';
import { toOctomilError } from '@octomil/shared/errors';

export interface ConversationOptions {
  readonly input: NodeJS.ReadableStream;
  /** Where a person sees what is typed; answers go there through `answer`. */
  readonly output: NodeJS.WritableStream;
  /** A person types: there is a prompt, Ctrl-C stops an answer, and a failure does not end it. */
  readonly isTerminal: boolean;
  readonly system: string | undefined;
  readonly signal: AbortSignal;
  /**
   * Answers the last message, and lets it be heard.
   *
   * @param said gets the text as it comes, so that what was stopped is not forgotten
   */
  answer(messages: readonly ChatMessage[], signal: AbortSignal, said: (text: string) => void): Promise<void>;
  /** Says something that is no answer. */
  note(text: string): void;
}

/**
 * Talks, a line at a time, until `/exit` or the end of the input.
 *
 * @returns whether it was interrupted at the prompt
 * @throws OctomilError of an answer, unless a person may say it otherwise; `cancelled` by the signal
 */
export async function converse(options: ConversationOptions): Promise<boolean> {
  const { input, output, isTerminal, signal, note } = options;
  const begin: readonly ChatMessage[] =
    options.system === undefined ? [] : [{ role: 'system', content: options.system }];
  let messages = begin;
  let answering: AbortController | undefined;
  let interrupted = false;
  const lines = createInterface({ input, ...(isTerminal ? { output, terminal: true, prompt: '> ' } : {}) });
  lines.on('SIGINT', () => {
    if (answering !== undefined) answering.abort();
    else {
      interrupted = true;
      lines.close();
    }
  });
  const onAbort = (): void => lines.close();
  signal.addEventListener('abort', onAbort, { once: true });
  const prompt = (): void => {
    if (isTerminal) lines.prompt();
  };
  try {
    prompt();
    for await (const line of lines) {
      const typed = line.trim();
      if (typed === '/exit') break;
      if (typed === '/reset') {
        messages = begin;
        note('Forgotten.');
      } else if (/^\/[a-z]+$/.test(typed)) note(`There is no ${typed}; there are /exit and /reset.`);
      else if (typed !== '') {
        const asked: readonly ChatMessage[] = [...messages, { role: 'user', content: line }];
        let said = '';
        answering = new AbortController();
        try {
          await options.answer(asked, AbortSignal.any([signal, answering.signal]), (text) => {
            said += text;
          });
        } catch (thrown) {
          if (signal.aborted || !isTerminal) throw thrown;
          if (answering.signal.aborted) note('(stopped)');
          else {
            const { code, reason } = toOctomilError(thrown);
            note(`error [${code}]: ${reason}${code === 'context_too_large' ? '; /reset begins anew' : ''}`);
          }
        } finally {
          answering = undefined;
        }
        // A question without an answer was not asked.
        if (said !== '') messages = [...asked, { role: 'assistant', content: said }];
      }
      prompt();
    }
    signal.throwIfAborted();
    return interrupted;
  } finally {
    signal.removeEventListener('abort', onAbort);
    lines.close();
  }
}
