import { layoutOf, type ParameterLayout } from './parameter-layout.js';

/**
 * The layout of several vectors like one model in one file, vector after vector: `<name>/<tensor>` for each name. A file's
 * tensors lie in the order of their names, so the vectors do too.
 *
 * @param names in their order (by code units), none with a slash
 */
export function stackedLayout(layout: ParameterLayout, names: readonly string[]): ParameterLayout {
  return layoutOf(
    names.flatMap((prefix) => layout.tensors.map(({ name, shape }) => ({ name: `${prefix}/${name}`, shape }))),
  );
}

/** What a control variate is called in a file: the server's, a device's own, and the change of one. */
export const CONTROL_VARIATE = 'controlVariate';

/** The file of a control variate: the server's c, or a device's own c_i. */
export function controlLayout(model: ParameterLayout): ParameterLayout {
  return stackedLayout(model, [CONTROL_VARIATE]);
}

/**
 * An update with control variates: the change of the device's own control variate, then that of the weights. Both with a
 * prefix, since the tensors of a file are in name order and the halves must not mix.
 */
export function controlledUpdateLayout(model: ParameterLayout): ParameterLayout {
  return stackedLayout(model, [CONTROL_VARIATE, 'weights']);
}
