import { openRun } from '@octomil/sdk';
import { OctomilError } from '@octomil/shared/errors';

export interface BenchClient {
  readonly apiKey: string;
  readonly apiBase: string;
}

/** Starts a training session by the plain REST body, and answers its identifier. */
export async function startSession(client: BenchClient, body: object): Promise<string> {
  const response = await fetch(`${client.apiBase}/training/sessions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${client.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const answer = (await response.json()) as { session_id?: string; message?: string };
  if (answer.session_id === undefined) throw new OctomilError('internal', `no session: ${answer.message}`);
  return answer.session_id;
}

/** Waits for the end and answers when each training round finished, in milliseconds of the database's clock. */
export async function waitForSession(client: BenchClient, sessionId: string): Promise<number[]> {
  const run = openRun(sessionId, client);
  await run.result();
  const rounds = await run.rounds();
  return rounds
    .filter((round) => round.kind === 'train' && round.state === 'completed')
    .map((round) => Date.parse(String(round['finishedAt'])))
    .sort((a, b) => a - b);
}
