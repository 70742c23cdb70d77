// Checks the file that `octomil demo --out` wrote: its shape, and that federating helped.
import { readFileSync } from 'node:fs';

const result = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const problems = [];
const need = (condition, problem) => condition || problems.push(problem);

need(/^\d+\.\d+\.\d+$/.test(result.version), `version is ${result.version}`);
need(/^[0-9a-f]{64}$/.test(result.digest), `digest is ${result.digest}`);
need(result.rounds?.length > 0, 'no rounds');
for (const round of result.rounds ?? []) {
  need(Number.isInteger(round.round) && round.seconds >= 0, `a round is ${JSON.stringify(round)}`);
}
const auc = (part) => part?.overall?.auc;
const local = Object.values(result.local ?? {}).map(auc);
const localMean = local.reduce((sum, value) => sum + value, 0) / local.length;
need(local.length === 4 && Number.isFinite(localMean), `local AUCs are ${local}`);
need(
  auc(result.federated) > localMean,
  `federated AUC ${auc(result.federated)} is not above the local mean ${localMean}`,
);
need(auc(result.pooled) > 0.7, `pooled AUC is ${auc(result.pooled)}`);

for (const problem of problems) console.error(problem);
console.log(`AUC: federated ${auc(result.federated)}, local mean ${localMean}, pooled ${auc(result.pooled)}`);
process.exit(problems.length === 0 ? 0 : 1);
