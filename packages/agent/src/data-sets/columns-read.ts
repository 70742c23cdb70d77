import { type DataSource, foldName, USUAL_PICTURE_COLUMNS } from '@octomil/shared/data';
import type { TrainerTask } from '@octomil/shared/training';

type DataTask = Extract<TrainerTask, { readonly source: DataSource }>;

/**
 * Keys of the columns that a task reads; undefined: all of them. Rather too many than too few: a name that the table lacks
 * does no harm. The feature spec may be of any shape, since it is checked later.
 */
export function columnsRead(task: DataTask): string[] | undefined {
  if (task.kind === 'describe') return undefined;
  if (task.kind === 'train' && task.trainer === 'own' && task.code.data === 'path') return undefined;
  const { shareRatio, entityColumn } = fieldsOf(task.holdout);
  // Without an entity the whole row decides on which side it falls.
  if (shareRatio !== 0 && typeof entityColumn !== 'string') return undefined;
  const { columns, target } = fieldsOf(task.featureSpec);
  const names = [
    entityColumn,
    fieldsOf(fieldsOf(target)['rule'])['column'],
    namesIn(columns),
    fieldsOf(task.source)['names'],
    pictureColumns(task.source),
  ];
  return [...new Set(textsOf(names).map(foldName))];
}

/** The files of pictures call the column otherwise than the spec does. */
function pictureColumns({ images }: DataSource): readonly string[] {
  return images === undefined ? [] : images.column === undefined ? USUAL_PICTURE_COLUMNS : [images.column];
}

/** A column's description without its levels, which are values. */
function namesIn(columns: unknown): unknown {
  return Array.isArray(columns) ? columns.map((column) => ({ ...fieldsOf(column), levels: undefined })) : [];
}

/** Every text in it, keys too: names, aliases, columns that others are derived from. */
function textsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (typeof value !== 'object' || value === null) return [];
  const keys = Array.isArray(value) ? [] : Object.keys(value);
  return [...keys, ...Object.values(value).flatMap(textsOf)];
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
