import type { ChatMessage, GenerationRequest, ResponseFormat } from '@octomil/inference/engine';
import type { RoutingDecision } from '@octomil/inference/routing';
import { type Answer, generateAnswer, samplingOf } from '../inference/answer.js';
import type { Choice } from '../inference/local-models.js';
import { withModels } from '../inference/with-models.js';
import type { Options } from '../program.js';
import { readInput, readJsonObject } from '../terminal/input.js';
import { say } from '../terminal/out.js';

/**
 * Answers a prompt in the terminal.
 *
 * @param prompt undefined or `-`: what is piped in
 * @returns 1 when the JSON of a schema was cut off by the limit on its length
 */
export async function run(options: Options, prompt: string | undefined): Promise<number> {
  const { model, schema, system, json } = options;
  const responseFormat: ResponseFormat =
    typeof schema === 'string'
      ? { type: 'json_schema', name: 'answer', schema: await readJsonObject(schema) }
      : { type: 'text' };
  const content =
    prompt === undefined || prompt === '-'
      ? await readInput('say what to answer: octomil run "…", or pipe it in')
      : prompt;
  const messages: ChatMessage[] = [
    ...(typeof system === 'string' ? [{ role: 'system' as const, content: system }] : []),
    { role: 'user', content },
  ];
  return withModels(model, options, async (models, signal) => {
    const choice = models.choose(messages, responseFormat.type === 'text');
    if (options['explain'] === true) process.stderr.write(`${explanation(choice)}\n`);
    const quick = choice.decision?.deterministicResult;
    if (quick !== undefined) {
      const whole = { model: null, text: quick.answer, finishReason: 'stop', method: quick.method };
      await say(json === true ? `${JSON.stringify(whole)}\n` : `${quick.answer}\n`);
      return 0;
    }
    const { name, engine } = await models.open(choice.names, signal);
    const { maxOutputTokens } = options;
    const request: GenerationRequest = {
      input: { messages },
      maxTokens: typeof maxOutputTokens === 'number' ? maxOutputTokens : undefined,
      ...samplingOf(options),
      responseFormat,
    };
    const streams = options['stream'] !== false && json !== true;
    const answer = await generateAnswer(engine, request, signal, async (text) => {
      if (streams) await say(text);
    });
    const routing = choice.decision === undefined ? {} : { routing: routingJson(choice.decision) };
    if (json === true) await say(`${JSON.stringify({ model: name, ...answer, ...routing })}\n`);
    else await say(`${streams ? '' : answer.text}${answer.text.endsWith('\n') ? '' : '\n'}`);
    return ended(answer, responseFormat);
  });
}

function ended({ finishReason, usage }: Answer, format: ResponseFormat): number {
  if (finishReason === 'stop') return 0;
  process.stderr.write(`The answer was cut off after ${usage.completionTokens} tokens; see --max-output-tokens.\n`);
  return format.type === 'text' ? 0 : 1;
}

function routingJson({ deterministicResult: _none, ...decision }: RoutingDecision): object {
  return decision;
}

function explanation({ names: [name], decision }: Choice): string {
  if (decision === undefined) return `${name}: it was named, or is the only one`;
  const { deterministicResult, complexityScore, tier, contributions, rules, fallbackChain } = decision;
  if (deterministicResult !== undefined) return `no model: the answer follows by ${deterministicResult.method}`;
  return [
    `${name}: complexity ${complexityScore.toFixed(2)}, tier ${tier}`,
    ...contributions.map((part) => `  ${part.feature} ${part.strength.toFixed(2)}, ${part.share.toFixed(2)} of it`),
    ...rules.map((rule) => `  ${rule}`),
    ...(fallbackChain.length === 0 ? [] : [`  if it fails: ${fallbackChain.join(', ')}`]),
  ].join('\n');
}
