import { OctomilError } from '@octomil/shared/errors';
import { withModels } from '../inference/with-models.js';
import type { Options } from '../program.js';
import { readInput } from '../terminal/input.js';
import { say } from '../terminal/out.js';

/** Texts that the model is given at once. */
const BATCH = 32;

/**
 * Makes vectors of length 1.
 *
 * @param given texts; none, or `-`: each line that is piped in which is not empty
 */
export async function embed(options: Options, given: readonly string[]): Promise<number> {
  const { model, json, jsonl } = options;
  const isPiped = given.length === 0 || (given.length === 1 && given[0] === '-');
  const inputs = isPiped
    ? (await readInput('say what to make vectors of: octomil embed "…", or pipe lines in'))
        .split(/\r?\n/)
        .filter(Boolean)
    : given;
  const empty = inputs.indexOf('');
  if (inputs.length === 0 || empty >= 0) {
    throw new OctomilError('invalid_input', inputs.length === 0 ? 'there is no text' : `text ${empty + 1} is empty`);
  }
  return withModels(model, options, async (models, signal) => {
    // Vectors of two models cannot be compared: it is always the same one.
    const { name, engine } = await models.open(models.names.slice(0, 1), signal);
    const embeddings: number[][] = [];
    let promptTokens = 0;
    for (let start = 0; start < inputs.length; start += BATCH) {
      const texts = inputs.slice(start, start + BATCH);
      const made = await engine.embed(texts, signal);
      promptTokens += made.promptTokens;
      for (const [offset, vector] of made.vectors.entries()) {
        const embedding = [...vector];
        if (json === true) embeddings.push(embedding);
        else if (jsonl !== true) await say(`${JSON.stringify(embedding)}\n`);
        else await say(`${JSON.stringify({ index: start + offset, input: texts[offset], embedding })}\n`);
      }
    }
    if (json === true) await say(`${JSON.stringify({ model: name, embeddings, usage: { promptTokens } })}\n`);
    return 0;
  });
}
