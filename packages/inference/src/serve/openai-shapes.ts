import type { ToolCall } from '../engine/index.js';
import type { AnswerShape } from './completion-answer.js';

export const CHAT: AnswerShape = {
  object: 'chat.completion',
  chunkObject: 'chat.completion.chunk',
  whole: (index, { text, calls }, reason) => ({
    index,
    message: {
      role: 'assistant',
      content: text === '' && calls.length > 0 ? null : text,
      refusal: null,
      ...(calls.length === 0 ? {} : { tool_calls: calls.map(callJson) }),
    },
    logprobs: null,
    finish_reason: reason,
  }),
  // Some clients refuse a first delta without a role.
  opening: (index) => ({ index, delta: { role: 'assistant', content: '' }, finish_reason: null }),
  piece: (index, said, call) => {
    switch (said.type) {
      case 'text':
        return { index, delta: { content: said.text }, finish_reason: null };
      case 'call': {
        const tool = {
          index: said.index,
          id: call?.id,
          type: 'function',
          function: { name: said.name, arguments: '' },
        };
        return { index, delta: { tool_calls: [tool] }, finish_reason: null };
      }
      case 'arguments': {
        const tool = { index: said.index, function: { arguments: said.text } };
        return { index, delta: { tool_calls: [tool] }, finish_reason: null };
      }
    }
  },
  ending: (index, reason) => ({ index, delta: {}, finish_reason: reason }),
};

/** Nothing can be called in it. */
export const TEXT: AnswerShape = {
  object: 'text_completion',
  chunkObject: 'text_completion',
  whole: (index, { text }, reason) => ({ index, text, logprobs: null, finish_reason: reason }),
  opening: () => undefined,
  piece: (index, said) => ({
    index,
    text: said.type === 'text' ? said.text : '',
    logprobs: null,
    finish_reason: null,
  }),
  ending: (index, reason) => ({ index, text: '', logprobs: null, finish_reason: reason }),
};

function callJson({ id, name, arguments: given }: ToolCall): object {
  return { id, type: 'function', function: { name, arguments: given } };
}
