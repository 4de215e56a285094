/** Arrays in NumPy's .npy format, as Flower carries them. */

/** Elements of an array in row-major order; Uint16Array holds the bits of float16. */
export type ArrayData =
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int32Array
  | BigInt64Array
  | Int8Array
  | Uint8Array;

/** One array of an ArrayRecord. */
export interface NumpyArray {
  /** NumPy's name: float16, float32, float64, int8, int32, int64, uint8 or bool (one byte, 0 or 1). */
  dtype: string;
  shape: number[];
  data: ArrayData;
}
