import type { AnswerShape } from './completion-answer.js';

export const CHAT: AnswerShape = {
  object: 'chat.completion',
  chunkObject: 'chat.completion.chunk',
  whole: (index, content, reason) => ({
    index,
    message: { role: 'assistant', content, refusal: null },
    logprobs: null,
    finish_reason: reason,
  }),
  // Some clients refuse a first delta without a role.
  opening: (index) => ({ index, delta: { role: 'assistant', content: '' }, finish_reason: null }),
  piece: (index, content) => ({ index, delta: { content }, finish_reason: null }),
  ending: (index, reason) => ({ index, delta: {}, finish_reason: reason }),
};

export const TEXT: AnswerShape = {
  object: 'text_completion',
  chunkObject: 'text_completion',
  whole: (index, text, reason) => ({ index, text, logprobs: null, finish_reason: reason }),
  opening: () => undefined,
  piece: (index, text) => ({ index, text, logprobs: null, finish_reason: null }),
  ending: (index, reason) => ({ index, text: '', logprobs: null, finish_reason: reason }),
};
