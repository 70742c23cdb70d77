import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import {
  type EmbeddingResult,
  type EmbedOptions,
  embedWith,
  GatewaySource,
  type StreamToken,
} from './gateway-source.js';
import type { StreamPredictOptions } from './inference.js';
import { type GenerationInput, generationQuery } from './request.js';
import { eachWithinTime } from './waiting.js';

/** For the functions that need no client. */
export interface GatewayOptions extends Pick<ClientOptions, 'apiKey' | 'fetch' | 'timing' | 'maxAttempts'> {
  /** Ends in `/api/v1`. Default: `OCTOMIL_API_BASE`, else that of a coordinator on this machine. */
  readonly serverUrl?: string;
}

/** As `Client.streamPredict`, without a client. @throws OctomilClientError as that */
export function streamInference(
  options: GatewayOptions & StreamPredictOptions & { readonly modelId: string; readonly inputData: GenerationInput },
): AsyncGenerator<StreamToken, void, undefined> {
  const query = generationQuery(options.inputData, options.parameters ?? {});
  const source = new GatewaySource(connection(options), options.modelId);
  return eachWithinTime(options, (signal) => source.tokens(query, signal));
}

/** As `Client.embed`, without a client. @throws OctomilClientError as that */
export async function embed(options: GatewayOptions & EmbedOptions): Promise<EmbeddingResult> {
  return embedWith(connection(options), options);
}

function connection({ serverUrl, apiKey, fetch, timing, maxAttempts }: GatewayOptions): HttpClient {
  return new HttpClient({
    apiBase: serverUrl,
    apiKey,
    ...(fetch === undefined ? {} : { fetch }),
    ...(timing === undefined ? {} : { timing }),
    ...(maxAttempts === undefined ? {} : { maxAttempts }),
  });
}
