import { hintedNames, hintedUnits } from './feature-hints.js';
import type { UnitConversion } from './feature-spec.js';
import { mismatch } from './merge-target.js';
import type { MergeContext, SiteColumn } from './site-columns.js';
import { conversionBetween, foldUnit, knownUnits } from './units.js';

export interface AgreedUnit {
  readonly unit?: string;
  readonly units?: Readonly<Record<string, UnitConversion>>;
  /** What brings the sites' numbers to it. */
  readonly conversions: ReadonlyMap<SiteColumn, UnitConversion>;
}

/**
 * The hinted unit, or the first that a site names, in device order; without either, there is none.
 *
 * @throws `data_mismatch` naming the site whose unit does not convert to it
 */
export function agreeOnUnit(name: string, columns: readonly SiteColumn[], { hint, warn }: MergeContext): AgreedUnit {
  const wishes = hint?.hint ?? {};
  const unit = wishes.unit ?? columns.find(({ column }) => column.unit !== undefined)?.column.unit;
  if (unit === undefined) return { conversions: new Map() };
  const names = hintedNames(hint, name);
  const given = hintedUnits(wishes);
  const conversions = new Map<SiteColumn, UnitConversion>();
  const silent: string[] = [];
  for (const entry of columns) {
    const { site, column } = entry;
    if (column.unit === undefined) {
      silent.push(site.name);
      continue;
    }
    const conversion = conversionBetween(column.unit, unit, [...names, column.name], given);
    if (conversion === undefined) {
      throw mismatch(
        site,
        `its column "${name}" is in ${column.unit}, for which no conversion to ${unit} is known; give the factor in a hint: {"${name}": {"unit": "${unit}", "units": {"${column.unit}": …}}}`,
      );
    }
    if (foldUnit(column.unit) === foldUnit(unit)) continue;
    if (wishes.unit === undefined && (wishes.scale !== undefined || wishes.clip !== undefined)) {
      throw mismatch(
        site,
        `its column "${name}" is in ${column.unit}, others have ${unit}; name the unit to clip or scale in (hint: unit)`,
      );
    }
    conversions.set(entry, conversion);
  }
  if (silent.length > 0 && silent.length < columns.length) {
    warn(`column "${name}" is in ${unit}; ${silent.join(', ')} named no unit for it, and is taken to have the same`);
  }
  const own = new Set(Object.keys(given).map(foldUnit));
  // What the hint says goes before what is known, however it spells the unit.
  const others = Object.entries(knownUnits(unit, names)).filter(([one]) => !own.has(one));
  const known = { ...Object.fromEntries(others), ...given };
  return { unit, ...(Object.keys(known).length === 0 ? {} : { units: known }), conversions };
}
