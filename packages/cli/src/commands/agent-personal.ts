import { exportPersonalModel, listPersonalModels, loadAgentConfig, removePersonalModel } from '@octomil/agent';
import type { Options } from '../program.js';
import { print, table } from '../terminal/output.js';

/** What of models is this site's own. */
export async function list(options: Options): Promise<void> {
  const listed = await listPersonalModels(stateDirOf(options));
  await print(options['json'], listed, () =>
    table(
      listed,
      [
        { title: 'ID', value: ({ id }) => id },
        { title: 'Federation', value: ({ record }) => record?.federation },
        { title: 'Model', value: ({ record }) => record?.model },
        { title: 'Data set', value: ({ record }) => record?.dataSet },
        { title: 'Method', value: ({ record }) => record?.method ?? 'damaged' },
        { title: 'Rounds', value: ({ record }) => record?.current.rounds, align: 'right' },
        { title: 'Bytes', value: ({ sizeBytes }) => sizeBytes, align: 'right' },
        { title: 'Kept', value: ({ keptAt }) => keptAt },
      ],
      'This site keeps no personal models.',
    ),
  );
}

/** Writes one for predictions. */
export async function exportOne(options: Options, id: string): Promise<void> {
  const weights = options['weights'];
  const paths = await exportPersonalModel(
    stateDirOf(options),
    id,
    String(options['output']),
    ...(typeof weights === 'string' ? [weights] : []),
  );
  await print(options['json'], { id, ...paths }, () => `${paths.documentPath}\n${paths.weightsPath}`);
}

/** Forgets one. */
export async function remove(options: Options, id: string): Promise<void> {
  await removePersonalModel(stateDirOf(options), id);
  await print(options['json'], { id, removed: true }, () => `${id} is removed; the next round starts from its base`);
}

const stateDirOf = (options: Options): string => loadAgentConfig({ path: String(options['config']) }).stateDir;
