import type { FinishReason, GenerationEngine, GenerationRequest, TokenUsage } from '@octomil/inference/engine';
import { StreamMeter } from '@octomil/inference/quality';
import { OctomilError } from '@octomil/shared/errors';
import type { Options } from '../program.js';

/** An answer, and how it came about. */
export interface Answer {
  readonly text: string;
  readonly finishReason: FinishReason;
  readonly usage: TokenUsage;
  readonly metrics: {
    /** Until the first text. */
    readonly ttfcMs: number | null;
    readonly totalDurationMs: number;
    readonly tokensPerSecond: number;
  };
}

/**
 * @param hear gets the text as it comes, and holds the model back until it has taken it
 * @throws OctomilError as the engine; whatever `hear` throws
 */
export async function generateAnswer(
  engine: GenerationEngine,
  request: GenerationRequest,
  signal: AbortSignal,
  hear: (text: string) => Promise<void>,
): Promise<Answer> {
  const meter = new StreamMeter();
  let text = '';
  for await (const event of engine.generate(request, signal)) {
    if (event.type === 'text') {
      meter.chunk();
      text += event.text;
      await hear(event.text);
    } else if (event.type === 'done') {
      const { ttfcMs, totalDurationMs } = meter.summary();
      const tokensPerSecond = (event.usage.completionTokens * 1000) / Math.max(1, totalDurationMs);
      const metrics = {
        ttfcMs: ttfcMs === null ? null : Math.round(ttfcMs),
        totalDurationMs: Math.round(totalDurationMs),
        tokensPerSecond: Math.round(tokensPerSecond * 10) / 10,
      };
      return { text, finishReason: event.finishReason, usage: event.usage, metrics };
    }
  }
  throw new OctomilError('inference_failed', 'the answer ended without saying why');
}

/** What `-t`, `--top-p` and `--seed` say. Commander has checked them. */
export function samplingOf(options: Options): Pick<GenerationRequest, 'temperature' | 'topP' | 'seed' | 'stop'> {
  const { temperature, topP, seed } = options;
  return {
    temperature: Number(temperature),
    topP: Number(topP),
    seed: typeof seed === 'number' ? seed : undefined,
    stop: [],
  };
}
