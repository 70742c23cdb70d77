/** A turn as a router reads it: other fields do not matter. */
export interface RoutedMessage {
  readonly role: string;
  readonly content: string;
}

/** What a query asks, apart from what was said before. A plain string is one question of the user. */
export interface Query {
  readonly text: string;
  readonly system: string;
  readonly userTurns: number;
}

export function readQuery(messages: string | readonly RoutedMessage[]): Query {
  if (typeof messages === 'string') return { text: messages, system: '', userTurns: 1 };
  const asked = messages.filter(({ role }) => role === 'user');
  return {
    text: asked.at(-1)?.content ?? '',
    system: messages
      .filter(({ role }) => role === 'system')
      .map(({ content }) => content)
      .join('\n'),
    userTurns: asked.length,
  };
}
