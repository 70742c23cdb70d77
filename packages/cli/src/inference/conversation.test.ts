import { PassThrough } from 'node:stream';
import { expect, test } from '@jest/globals';
import type { ChatMessage } from '@octomil/inference/engine';
import { OctomilError } from '@octomil/shared/errors';
import { converse } from './conversation.js';

/** Somebody at a terminal, and a model that repeats what it hears, or whatever `answer` does. */
function meet(
  answer: (asked: string, turn: AbortSignal, said: (text: string) => void) => Promise<void>,
  signal = new AbortController().signal,
) {
  const input = new PassThrough();
  const heard: (readonly ChatMessage[])[] = [];
  const notes: string[] = [];
  const ended = converse({
    input,
    output: new PassThrough(),
    isTerminal: true,
    system: 'Be kind.',
    signal,
    note: (text) => void notes.push(text),
    answer: async (messages, turn, said) => {
      heard.push(messages);
      await answer(messages.at(-1)?.content ?? '', turn, said);
    },
  });
  return { input, heard, notes, ended };
}

test('Ctrl-C stops an answer, of which what was said is kept; at the prompt it ends the conversation', async () => {
  const begun = Promise.withResolvers<void>();
  const { input, heard, notes, ended } = meet(async (asked, turn, said) => {
    said(`${asked}!`);
    if (asked !== 'long') return;
    begun.resolve();
    await new Promise((_, reject) => turn.addEventListener('abort', () => reject(turn.reason), { once: true }));
  });
  input.write('long\r');
  await begun.promise;
  input.write('\u0003');
  input.write('next\r');
  while (heard.length < 2) await new Promise((resolve) => setImmediate(resolve));
  expect(notes).toEqual(['(stopped)']);
  expect(heard[1]?.map(({ role, content }) => `${role}: ${content}`)).toEqual([
    'system: Be kind.',
    'user: long',
    'assistant: long!',
    'user: next',
  ]);
  input.write('\u0003');
  expect(await ended).toBe(true);
});

test('what fails is said, forgotten, and asked anew', async () => {
  const { input, heard, notes, ended } = meet(async (asked, _turn, said) => {
    if (asked === 'too long') throw new OctomilError('context_too_large', 'the prompt has 9 tokens');
    said('yes');
  });
  input.write('too long\r/nothing\r/reset\rshort\r/exit\runheard\r');
  expect(await ended).toBe(false);
  expect(notes).toEqual([
    'error [context_too_large]: the prompt has 9 tokens; /reset begins anew',
    'There is no /nothing; there are /exit and /reset.',
    'Forgotten.',
  ]);
  expect(heard.at(-1)?.map(({ content }) => content)).toEqual(['Be kind.', 'short']);
  expect(heard).toHaveLength(2);
});

test('a signal ends it, in the middle of an answer too', async () => {
  const controller = new AbortController();
  const begun = Promise.withResolvers<void>();
  const { input, ended } = meet(async (_asked, turn) => {
    begun.resolve();
    await new Promise((_, reject) => turn.addEventListener('abort', () => reject(turn.reason), { once: true }));
  }, controller.signal);
  input.write('hello\r');
  await begun.promise;
  controller.abort(new OctomilError('cancelled', 'enough'));
  await expect(ended).rejects.toMatchObject({ code: 'cancelled' });
});
