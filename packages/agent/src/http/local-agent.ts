import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { fromHttpFailure } from '../connection/http-failure.js';
import type { InferenceReport } from '../deployments/model-health.js';

/** The agent that runs on this machine, for other programs of the same user. */
export interface LocalAgent {
  /**
   * Counts answers of deployed versions, at most 1,000 at once.
   *
   * @returns how many were of the active version and so counted
   * @throws OctomilError `runtime_unavailable` when the agent has stopped, `invalid_input`, `too_large`
   */
  report(reports: readonly InferenceReport[]): Promise<number>;
  /**
   * Activates a version that waits for it.
   *
   * @param model id or name
   * @throws OctomilError `not_found` when it is not wanted here, `runtime_unavailable` when the agent has stopped
   */
  activate(model: string): Promise<void>;
}

const TIMEOUT_MS = 5_000;

/**
 * Finds the agent of a state folder. Its address and token change with every start: after `runtime_unavailable` or
 * `authentication_failed`, open it again.
 *
 * @throws OctomilError `runtime_unavailable` when no agent runs on it, or it has no model to deploy
 */
export async function openLocalAgent(stateDir: string): Promise<LocalAgent> {
  const path = join(stateDir, 'local-api.json');
  let url: string;
  let token: string;
  try {
    ({ url, token } = JSON.parse(await readFile(path, 'utf8')) as { url: string; token: string });
  } catch (cause) {
    throw new OctomilError(
      'runtime_unavailable',
      `${path} cannot be read: no agent runs on this state folder, it has no model to deploy yet, or it is another user's`,
      { cause },
    );
  }
  const post = async (route: string, body: object): Promise<unknown> => {
    let response: Response;
    try {
      response = await fetch(`${url}${route}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch (cause) {
      throw new OctomilError('runtime_unavailable', `the agent of ${stateDir} does not answer; is it running?`, {
        cause,
      });
    }
    const text = await response.text();
    if (!response.ok) throw fromHttpFailure(response.status, text, `the agent's ${route}`);
    return JSON.parse(text);
  };
  return {
    report: async (reports) => {
      const answer = await post('/v1/inference-report', {
        reports: reports.map(({ modelId, versionId, latencyMs, failed }) => ({
          model_id: modelId,
          version_id: versionId,
          latency_ms: latencyMs,
          failed,
        })),
      });
      return (answer as { counted: number }).counted;
    },
    activate: async (model) => {
      await post('/v1/activate', { model });
    },
  };
}
