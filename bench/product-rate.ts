// `product-rate`: how fast packed matrix products run here, in GFLOP/s. This is the yardstick of `feddat-step`: a step
// cannot be faster than its products.
import { type Command, InvalidArgumentError, Option } from 'commander';
import { native } from '../dist/native.js';
import { alignRows } from './statistics.js';
import { mixedRate, modelSizes, type StepWork, workOfStep } from './work.js';

export type Dtype = 'fp32' | 'bf16';

export interface ProductRates {
  products: { m: number; n: number; k: number; share: number; gflops: number }[];
  /** Rate of the mix: all work over all time. */
  gflops: number;
}

/** Best rate of each of the products a step consists of. */
export async function measureProducts(
  products: StepWork['products'],
  dtype: Dtype,
  threads: number,
): Promise<ProductRates> {
  native.setThreads(threads);
  const measured: ProductRates['products'] = [];
  for (const { m, n, k, share } of products) {
    const gflops = await native.productRate(m, n, k, dtype === 'fp32' ? 'f32' : 'bf16');
    measured.push({ m, n, k, share, gflops });
  }
  return { products: measured, gflops: mixedRate(measured) };
}

/** For commander: a whole number from 1. */
export function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) {
    throw new InvalidArgumentError('Expected an integer from 1.');
  }
  return value;
}

export function threadsOption(): Option {
  return new Option('--threads <n>', 'threads of the products').argParser(count).default(2);
}

export function addProductRate(program: Command): void {
  program
    .command('product-rate')
    .description('rate of packed matrix products of the sizes in ViLT-B/32')
    .option('--batch <n>', 'pictures with questions', count, 8)
    .addOption(threadsOption())
    .option('--json', 'print JSON')
    .action(async (options: { batch: number; threads: number; json?: boolean }) => {
      const shape = { ...modelSizes.b32, batch: options.batch, textTokens: 40, answers: 100 };
      const { products } = workOfStep(shape, 'merged');
      const result: Partial<Record<Dtype, ProductRates>> = {};
      for (const dtype of ['fp32', 'bf16'] as const) {
        result[dtype] = await measureProducts(products, dtype, options.threads);
      }
      if (options.json) {
        console.log(
          JSON.stringify({ benchmark: 'product-rate', ...options, ...native.systemInfo(), rates: result }),
        );
        return;
      }
      const rows = [['rows x outputs x inputs', 'fp32 GFLOP/s', 'bf16 GFLOP/s']];
      products.forEach(({ m, n, k }, i) => {
        const rate = (dtype: Dtype): string => result[dtype]!.products[i]!.gflops.toFixed(0);
        rows.push([`${m} x ${n} x ${k}`, rate('fp32'), rate('bf16')]);
      });
      rows.push(['mix of a step', result.fp32!.gflops.toFixed(0), result.bf16!.gflops.toFixed(0)]);
      const { isa, onednn } = native.systemInfo();
      console.log(`oneDNN ${onednn}, ${isa}, ${options.threads} threads\n${alignRows(rows)}`);
    });
}
