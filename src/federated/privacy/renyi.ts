/**
 * Renyi divergence of Gaussian noise of standard deviation sigma on a value of which a neighbour changes at most 1.
 *
 * Alone it is a / (2 sigma^2) for order a (Mironov, "Renyi Differential Privacy", arXiv 1702.07476, corollary 3). Where the value
 * is there with probability q only, unseen (Poisson sampling; neighbours add or remove it), it is log(A) / (a - 1),
 *
 *   A = E_{z ~ N(0, sigma^2)} [ ((1 - q) + q exp((2 z - 1) / (2 sigma^2)))^a ],
 *
 * the larger one of both directions (Mironov, Talwar, Zhang, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", arXiv
 * 1908.10530, theorem 5 and section 3). The integral is computed as it stands, for whole and broken orders, by the trapezoidal rule:
 * the integrand is analytic between the lines Im z = +-pi sigma^2 and there at most exp(Im(z)^2 / (2 sigma^2)) times itself on the
 * real line, so with the step below the rule errs by less than e^-40 of A (Trefethen, Weideman, SIAM Review 56, 2014, theorem 5.1).
 */

/** Beyond 0 and the order the integrand falls faster than this many deviations of a normal density. */
const TAILS = 12;
const MOST_POINTS = 2 ** 20;

/** @param sigma above 0 @param q 0 to 1 @param order above 1 */
export function renyiDivergence(sigma: number, q: number, order: number): number {
  const unsampled = order / (2 * sigma ** 2);
  if (q === 0) return 0;
  if (q === 1) return unsampled;
  const step = Math.min(0.7 * sigma, 2 / (0.5 + 4.1 / sigma ** 2));
  const points = Math.ceil((order + 2 * TAILS * sigma) / step);
  if (points > MOST_POINTS) return unsampled; // never smaller
  const logs = Float64Array.from({ length: points + 1 }, (_, index) => {
    const z = index * step - TAILS * sigma;
    const ratio = Math.log(q) + (2 * z - 1) / (2 * sigma ** 2);
    return order * logOfSum(Math.log1p(-q), ratio) - z ** 2 / (2 * sigma ** 2);
  });
  const largest = logs.reduce((most, log) => Math.max(most, log));
  const sum = logs.reduce((all, log) => all + Math.exp(log - largest), 0);
  const moment = largest + Math.log((sum * step) / (sigma * Math.sqrt(2 * Math.PI)));
  return Math.min(unsampled, Math.max(0, moment) / (order - 1));
}

/** log(e^a + e^b) */
function logOfSum(a: number, b: number): number {
  return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
}
