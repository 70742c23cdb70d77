import { EventEmitter, getEventListeners } from 'node:events';
import { expect, test } from '@jest/globals';
import { drained, whenClosed } from './connection.js';

test('a request on a kept-alive socket hears of its end, and leaves no listener when it is done', () => {
  const socket = new EventEmitter();
  const first = whenClosed(socket);
  first.release();
  const second = whenClosed(socket);
  expect(socket.listenerCount('close')).toBe(1);
  socket.emit('close');
  expect(first.signal.aborted).toBe(false);
  expect(second.signal.aborted).toBe(true);
});

test.each(['drain', 'abort'])('waiting for a slow reader ends by %s, with no listener left', async (by) => {
  const stream = new EventEmitter();
  const gone = new AbortController();
  const waiting = drained(stream, gone.signal);
  expect(stream.listenerCount('drain')).toBe(1);
  if (by === 'drain') stream.emit('drain');
  else gone.abort();
  await waiting;
  expect(stream.listenerCount('drain')).toBe(0);
  expect(getEventListeners(gone.signal, 'abort')).toHaveLength(0);
  if (by === 'abort') await drained(stream, gone.signal);
});
