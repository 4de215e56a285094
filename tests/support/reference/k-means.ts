// The k-means that native/data/key_frames.cpp does, in plain words.

export function kMeansLabels(features: readonly ArrayLike<number>[], count: number): number[] {
  const centres = farthestFirst(features, count).map((frame) =>
    Float64Array.from(features[frame] as ArrayLike<number>),
  );
  let labels: number[] = [];
  for (let round = 0; round < 100; round++) {
    const next = features.map((feature) => nearest(feature, centres));
    if (next.every((label, frame) => label === labels[frame])) break;
    labels = next;
    for (const [label, centre] of centres.entries()) {
      const members = features.filter((_, frame) => labels[frame] === label);
      if (members.length === 0) continue;
      for (let i = 0; i < centre.length; i++) {
        centre[i] = members.reduce((sum, member) => sum + (member[i] as number), 0) / members.length;
      }
    }
  }
  return labels;
}

/** The first frame, then always the one farthest from all chosen ones; ends early when all others are equal to those. */
function farthestFirst(features: readonly ArrayLike<number>[], count: number): number[] {
  const chosen = [0];
  const distance = features.map((feature) => squaredDistance(feature, features[0] as ArrayLike<number>));
  while (chosen.length < count) {
    let farthest = 0;
    for (const [frame, value] of distance.entries()) {
      if (value > (distance[farthest] as number)) farthest = frame;
    }
    if (distance[farthest] === 0) break;
    chosen.push(farthest);
    for (const [frame, feature] of features.entries()) {
      const toNew = squaredDistance(feature, features[farthest] as ArrayLike<number>);
      distance[frame] = Math.min(distance[frame] as number, toNew);
    }
  }
  return chosen;
}

function nearest(feature: ArrayLike<number>, centres: readonly ArrayLike<number>[]): number {
  let best = 0;
  let least = Number.POSITIVE_INFINITY;
  for (const [label, centre] of centres.entries()) {
    const distance = squaredDistance(feature, centre);
    if (distance < least) [best, least] = [label, distance];
  }
  return best;
}

function squaredDistance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b[i] as number)) ** 2;
  return sum;
}
