import type { EvaluationMetrics } from '@octomil/shared/training';
import type { Options } from '../program.js';
import { interruptible } from '../terminal/interrupt.js';
import { decimal, table } from '../terminal/output.js';
import { openProgress } from '../terminal/progress.js';
import { requirePlaceFor, writeAtomically } from '../terminal/write-file.js';
import type { Scores } from './comparison.js';
import { type DemoResult, demoModelName, runDemo } from './demo.js';

/** Runs the demo and prints what came of it. */
export async function demo(options: Options): Promise<number> {
  const json = options['json'] === true;
  const rounds = (options['rounds'] as number | undefined) ?? 10;
  const say = (text: string): void => {
    if (!json) process.stdout.write(`${text}\n`);
  };
  const out = options['out'];
  if (typeof out === 'string') await requirePlaceFor(out);
  const { signal, release } = interruptible();
  const progress = await openProgress({ json, rounds });
  try {
    const result = await runDemo({
      data: options['data'] as string | undefined,
      target: options['target'] as string | undefined,
      architecture: options['model'] === 'mlp' ? 'mlp' : 'logistic',
      algorithm: String(options['algorithm']),
      rounds,
      localEpochs: (options['localEpochs'] as number | undefined) ?? 2,
      learningRate: (options['learningRate'] as number | undefined) ?? 0.1,
      seed: options['seed'] as number,
      signal,
      onStep: say,
      onEvent: (event) => progress.show(event),
      onTrained: () => progress.end(),
    });
    if (typeof out === 'string') await writeAtomically(out, `${JSON.stringify(result, null, 2)}\n`);
    if (json) process.stdout.write(`${JSON.stringify({ event: 'result', ...result })}\n`);
    else say(await resultText(result, demoModelName(options['seed'] as number)));
    return 0;
  } finally {
    progress.end();
    release();
  }
}

interface ResultRow {
  readonly name: string;
  readonly scores: Scores;
}

async function resultText(result: DemoResult, model: string): Promise<string> {
  const rows: ResultRow[] = [
    ...Object.entries(result.local).map(([name, scores]) => ({ name: `${name} alone`, scores })),
    { name: 'federated', scores: result.federated },
    { name: 'pooled (a demo may)', scores: result.pooled },
  ];
  const sites = Object.keys(result.federated.sites);
  const figures = (metrics: EvaluationMetrics | null | undefined): string =>
    metrics ? `${decimal(metrics.accuracy, 2)} ${decimal(metrics.auc, 2)} ${decimal(metrics.loss, 2)}` : '–';
  const drawn = await table(rows, [
    { title: 'Model', value: (row: ResultRow) => row.name },
    { title: 'All held-out rows', value: (row: ResultRow) => figures(row.scores.overall) },
    ...sites.map((site) => ({ title: site, value: (row: ResultRow) => figures(row.scores.sites[site]) })),
  ]);
  const counted = [
    `${result.federated.overall?.count ?? 0} in all`,
    ...sites.map((site) => `${site} ${result.federated.sites[site]?.count ?? 'fewer than 10'}`),
  ];
  return [
    '',
    `Accuracy, AUC and loss on rows that no model was trained on (${counted.join(', ')}):`,
    drawn,
    '',
    `Version ${result.version}, SHA-256 ${result.digest}, ${result.seconds.toFixed(1)} s in all.`,
    `With a coordinator of your own ("octomil up"): octomil pull ${model} --version ${result.version}`,
  ].join('\n');
}
