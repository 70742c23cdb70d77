import { seededRandom } from '@octomil/shared/models';

/** One invented patient; null is missing. */
export type Patient = Readonly<Record<(typeof COLUMNS)[number], number | string | null>>;

export const COLUMNS = [
  'age',
  'sex',
  'chest_pain',
  'systolic_bp',
  'cholesterol',
  'bmi',
  'max_heart_rate',
  'st_depression',
  'crp',
  'smoker',
  'diabetes',
  'family_history',
  'cardiac_event',
] as const;

/** What the generated hospitals learn to predict. */
export const GENERATED_TARGET = 'cardiac_event';

export interface Hospital {
  readonly name: string;
  readonly format: 'csv' | 'parquet';
  readonly columns: readonly string[];
  readonly patients: readonly Patient[];
}

interface Profile {
  readonly name: string;
  readonly format: 'csv' | 'parquet';
  readonly size: number;
  /** Mean age of those it treats. */
  readonly age: number;
  /** Added to the log-odds: how severe the cases are that reach it. */
  readonly severity: number;
  /** Columns it does not record at all. */
  readonly absent: readonly string[];
  /** Share of cells that were not filled in, by column. */
  readonly gaps: Readonly<Record<string, number>>;
}

// None records everything, so that no site alone can learn what all of them together can.
const PROFILES: readonly Profile[] = [
  {
    name: 'riverside',
    format: 'csv',
    size: 460,
    age: 56,
    severity: -0.9,
    absent: ['st_depression'],
    gaps: { cholesterol: 0.06, crp: 0.12, bmi: 0.03 },
  },
  {
    name: 'st-anna',
    format: 'parquet',
    size: 300,
    age: 62,
    severity: -0.2,
    absent: ['crp', 'chest_pain'],
    gaps: { max_heart_rate: 0.1, smoker: 0.08 },
  },
  {
    name: 'hillcrest',
    format: 'csv',
    size: 180,
    age: 49,
    severity: -1.3,
    absent: ['max_heart_rate'],
    gaps: { cholesterol: 0.15, chest_pain: 0.05 },
  },
  {
    name: 'lakeview',
    format: 'parquet',
    size: 120,
    age: 67,
    severity: 0.7,
    absent: ['cholesterol', 'family_history'],
    gaps: { systolic_bp: 0.05, bmi: 0.2 },
  },
];

const CHEST_PAIN_LOG_ODDS: Readonly<Record<string, number>> = {
  none: -1,
  'non-anginal': -0.4,
  atypical: 0.7,
  typical: 1.9,
};

/**
 * Four hospitals that never were: the same disease everywhere, but other patients, other prevalence and other columns.
 * The same seed gives the same patients.
 */
export function generateHospitals(seed: number): Hospital[] {
  return PROFILES.map((profile) => {
    const random = chances(seededRandom(seed, profile.name));
    return {
      name: profile.name,
      format: profile.format,
      columns: COLUMNS.filter((column) => !profile.absent.includes(column)),
      patients: Array.from({ length: profile.size }, () => withGaps(patient(profile, random), profile, random)),
    };
  });
}

interface Chances {
  normal(): number;
  chance(probability: number): boolean;
  pick(choices: readonly (readonly [value: string, weight: number])[]): string;
}

function chances(random: ReturnType<typeof seededRandom>): Chances {
  return {
    normal: random.normal,
    chance: (probability) => random.uniform() < probability,
    pick: (choices) => {
      let left = random.uniform() * choices.reduce((sum, [, weight]) => sum + weight, 0);
      const chosen = choices.find(([, weight]) => {
        left -= weight;
        return left < 0;
      });
      return chosen?.[0] ?? '';
    },
  };
}

function patient(profile: Profile, random: Chances): Patient {
  const age = clamp(Math.round(profile.age + 9 * random.normal()), 25, 92);
  const male = random.chance(0.55);
  const smoker = random.chance(0.28);
  const diabetes = random.chance(0.08 + 0.002 * (age - 25));
  const familyHistory = random.chance(0.3);
  const chestPain = random.pick([
    ['none', 4],
    ['non-anginal', 3],
    ['atypical', 2],
    ['typical', 2],
  ]);
  const bmi = clamp(round(27 + 4.5 * random.normal(), 1), 16, 55);
  const systolic = clamp(Math.round(122 + 0.35 * (age - 50) + 0.8 * (bmi - 27) + 14 * random.normal()), 85, 220);
  const cholesterol = clamp(Math.round(205 + 0.4 * (age - 50) + 36 * random.normal()), 100, 420);
  const heartRate = clamp(Math.round(208 - 0.75 * age + 17 * random.normal()), 70, 205);
  const depression = round(Math.max(0, 0.8 + 1.1 * random.normal()), 1);
  const crp = round(Math.exp(0.7 + 0.05 * (bmi - 27) + (smoker ? 0.3 : 0) + 0.8 * random.normal()), 2);
  const logOdds =
    profile.severity +
    0.08 * (age - 56) +
    (male ? 0.6 : -0.6) +
    0.03 * (systolic - 128) +
    0.015 * (cholesterol - 207) +
    0.07 * (bmi - 27) -
    0.045 * (heartRate - 165) +
    1.0 * (depression - 0.9) +
    0.7 * (Math.log(crp) - 0.8) +
    (smoker ? 1.1 : -0.4) +
    (diabetes ? 1 : -0.2) +
    (familyHistory ? 0.5 : -0.2) +
    (CHEST_PAIN_LOG_ODDS[chestPain] ?? 0);
  return {
    age,
    sex: male ? 'male' : 'female',
    chest_pain: chestPain,
    systolic_bp: systolic,
    cholesterol,
    bmi,
    max_heart_rate: heartRate,
    st_depression: depression,
    crp,
    smoker: smoker ? 'yes' : 'no',
    diabetes: diabetes ? 'yes' : 'no',
    family_history: familyHistory ? 'yes' : 'no',
    cardiac_event: random.chance(1 / (1 + Math.exp(-logOdds))) ? 1 : 0,
  };
}

function withGaps(patient: Patient, profile: Profile, random: Chances): Patient {
  // Every column draws, whether it has gaps or not, so that a change of one profile's gaps moves no other cell.
  const cells = Object.entries(patient).map(([column, value]) => {
    const missing = random.chance(profile.gaps[column] ?? 0);
    return [column, missing ? null : value] as const;
  });
  return Object.fromEntries(cells) as Patient;
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
