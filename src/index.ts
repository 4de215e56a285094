/// <reference lib="esnext.disposable" preserve="true" />
/**
 * duet-train: federated fine-tuning of vision-language models with dual-adapter teachers (FedDAT) and animated stickers (RDTF), on a
 * native core.
 *
 * This page is the whole public surface; everything is defined elsewhere.
 *
 * @module duet-train
 */

export {
  type AnswerCount,
  type AnsweredSample,
  AnswerVocabulary,
  type AnswerVocabularyOptions,
  answerScore,
  vqaAccuracy,
} from './data/answers.js';
export { Batcher, type BatcherOptions, type EpochOptions, type VqaBatch } from './data/batches.js';
export {
  type ClientOptions,
  listParts,
  loadClients,
  loadPart,
  loadParts,
  type PartOptions,
} from './data/clients.js';
export {
  ImageProcessor,
  type ImageProcessorOptions,
  type PictureSpec,
  type PreparedPictures,
  pictureSpec,
  type ResizedPicture,
  readPictureSpec,
} from './data/image-processor.js';
export type { PictureSource } from './data/picture-index.js';
export { type DecodeOptions, decodePicture, type Picture } from './data/pictures.js';
export { Random, shuffledOrder } from './data/random.js';
export { type DatasetCounts, type SkipReason, SkipReport } from './data/report.js';
export type { StickerSample } from './data/stickers/captions.js';
export type { Clip, ClipSpec } from './data/stickers/clip.js';
export { type StickerBatch, type StickerCounts, StickerDataset } from './data/stickers/dataset.js';
export type { SplitOptions, StickerBatchOptions, StickerOptions } from './data/stickers/dataset-options.js';
export type { AnimationLimits, StickerSkipReason } from './data/stickers/limits.js';
export {
  type GenerateControl,
  generateSynthetic,
  type SyntheticOptions,
  type SyntheticSettings,
} from './data/synthetic/generate.js';
export { NEUTRAL_STYLE, STYLE_NAMES, type StyleName } from './data/synthetic/styles.js';
export {
  PretrainedTokenizer,
  type TextEncoderKind,
  type TextTokenizer,
  type TokenRows,
} from './data/text-tokenizer.js';
export {
  type EncodedTexts,
  type TokenizeOptions,
  Tokenizer,
  type TokenizerOptions,
} from './data/tokenizer.js';
export type { VocabularyOptions } from './data/vocabulary.js';
export { VqaDataset, type VqaFiles, type VqaSample } from './data/vqa.js';
export { type Device, type DeviceName, type Inspection, inspect } from './device.js';
export { DuetError, type DuetErrorCode, ERROR_CODES } from './errors.js';
export {
  type BatchOptions,
  type BatchSource,
  FixedBatches,
  type LabelledBatch,
} from './federated/batch-source.js';
export type { FederatedClient, LocalReport } from './federated/client.js';
export {
  CODEC_NAMES,
  type CodecName,
  type RoundingDraws,
  type UpdateCodec,
  updateCodec,
} from './federated/compression.js';
export type { DataReport } from './federated/data-report.js';
export type { Accuracies, ClientEvaluation, EvaluationReport, Scored } from './federated/evaluation.js';
export { Federation, type RunOptions } from './federated/federation.js';
export { NodeIdentity, type NodeKeys } from './federated/flower/authentication.js';
export { type FlowerAnswers, FlowerClient, type FlowerClientOptions } from './federated/flower/client.js';
export { exportFlowerApp, type FlowerAppOptions } from './federated/flower/export-app.js';
export { FlowerHost, type FlowerHostOptions } from './federated/flower/host.js';
export {
  FolderMessageStore,
  MemoryMessageStore,
  type MessageStore,
  type StoredMessage,
  type StoredNode,
  type StoredReply,
} from './federated/flower/message-store.js';
export type { FlowerNames } from './federated/flower/naming.js';
export { FlowerNode, type FlowerNodeOptions, type Gate, type NodeHandler } from './federated/flower/node.js';
export type {
  MessageOutcome,
  NodeCounters,
  NodeEvents,
  NodeState,
  Retry,
} from './federated/flower/node-events.js';
export type { ObjectTree } from './federated/flower/objects.js';
export type {
  ArrayData,
  ArrayRecord,
  ConfigRecord,
  ConfigScalar,
  ConfigValue,
  FlowerMessage,
  MessageMetadata,
  MetricRecord,
  MetricValue,
  NumpyArray,
  RecordDict,
} from './federated/flower/records.js';
export type { Backoff } from './federated/flower/retry.js';
export type { FlowerConnection } from './federated/flower/transport.js';
export type { FederationOptions, FederationSettings } from './federated/options.js';
export { Accountant, type LedgerEntry, type PrivacySpent } from './federated/privacy/accountant.js';
export {
  Protection,
  type ProtectionOptions,
  type ProtectionReport,
  type UpdateTransform,
} from './federated/privacy/protection.js';
export type { Failure, Progress, RoundReport } from './federated/report.js';
export type { Schedule } from './federated/schedule.js';
export { type AuditEvent, type AuditedRound, type AuditLine, verifyAudit } from './federated/server/audit.js';
export { type ClientEvent, DuetClient, type DuetClientOptions } from './federated/server/client.js';
export type { ClientTls } from './federated/server/connection.js';
export { readTokens, type ServerTls } from './federated/server/credentials.js';
export type { NodeStatus } from './federated/server/desk.js';
export {
  handlerOf,
  type RoundHandler,
  type RoundTask,
  type RoundUpdate,
  type SiteWork,
} from './federated/server/handler.js';
export type { DuetServerOptions, NodeRound, ServerRound } from './federated/server/options.js';
export { DuetServer } from './federated/server/server.js';
export type { UpdateLimits } from './federated/server/uploads.js';
export {
  Site,
  type SiteOptions,
  type SiteProgress,
  type SiteProtection,
  type SiteReport,
  type SiteTask,
  type SiteUpdate,
} from './federated/site.js';
export { Centralised } from './federated/strategies/centralised.js';
export { FedAvg, type FedAvgOptions } from './federated/strategies/fedavg.js';
export { FedDat, type FedDatOptions } from './federated/strategies/feddat.js';
export { LocalOnly } from './federated/strategies/local.js';
export {
  type ClientUpdate,
  type Evaluation,
  type EvaluationName,
  type Strategy,
  type Weighting,
  weightedMean,
} from './federated/strategies/strategy.js';
export { type Encoders, encodersOf, VqaSource, vqaClients } from './federated/vqa-source.js';
export { AutoencoderKl, type AutoencoderOptions, type EncodeOptions } from './models/autoencoder.js';
export {
  readViltConfig,
  VILT_PRESETS,
  type ViltConfig,
  type ViltPreset,
  viltConfig,
  viltPreset,
} from './models/config.js';
export { Dfgn, type DfgnMemory, type DfgnOptions } from './models/dfgn.js';
export {
  DFGN_PRESETS,
  DfgnConfig,
  type DfgnConfigInput,
  type DfgnPreset,
  dfgnConfig,
  dfgnPreset,
  readDfgnConfig,
} from './models/dfgn-config.js';
export { nameFromPublished, publishedName } from './models/names.js';
export { type EncodedCaptions, FrozenTextEncoder, type TextEncoderOptions } from './models/text-encoder.js';
export type { TextEncoderConfig } from './models/text-encoder-config.js';
export { DEFAULT_TASK, Vilt } from './models/vilt.js';
export type { CreateOptions, PretrainedOptions, ViltOptions } from './models/vilt-options.js';
export type {
  ComputeType,
  DeviceInfo,
  DType,
  OptimizerOptions,
  ScheduleOptions,
  SystemInfo,
  TensorData,
  Tensors,
} from './native/core.js';
export type {
  AdapterMode,
  HiddenStates,
  StepResult,
  TrainingOptions,
  ViltBatch,
} from './native/federated.js';
export type {
  AutoencoderShape,
  DenoisingBatch,
  DenoisingOptions,
  DenoisingResult,
  DfgnPart,
  MemoryPlan,
  PictureGrid,
  PlannedStep,
  PredictionBatch,
  TextEncoderShape,
  TextStates,
  TokenBatch,
} from './native/stickers.js';
export {
  type EpochReport,
  Pretraining,
  type PretrainingOptions,
  type PretrainingProgress,
} from './pretraining/pretraining.js';
export { packageVersion } from './run/versions.js';
export type { Animation } from './stickers/animation.js';
export { CaptionVocabulary, type CaptionVocabularyOptions } from './stickers/caption-vocabulary.js';
export { AdaptiveCurriculum, type AdaptiveOptions } from './stickers/curriculum/adaptive.js';
export { CURRICULUM_NAMES, type CurriculumName } from './stickers/curriculum/by-name.js';
export type { Curriculum, CurriculumState } from './stickers/curriculum/curriculum.js';
export { DifficultyAdaptiveCurriculum } from './stickers/curriculum/difficulty-adaptive.js';
export { StaticCurriculum, type ThreeWeights } from './stickers/curriculum/static.js';
export { UniformCurriculum } from './stickers/curriculum/uniform.js';
export {
  type DenoisingHooks,
  type DenoisingInput,
  denoise,
  SAMPLERS,
  type SamplerName,
  type SamplingOptions,
} from './stickers/denoising.js';
export { type ContactSheetOptions, contactSheet } from './stickers/encode.js';
export {
  type EvaluateOptions,
  evaluateStickers,
  FILLERS,
  FILLING_TASKS,
  type Filler,
  type FillingTask,
  type Quality,
  type StickerEvaluation,
} from './stickers/evaluate.js';
export { type BaselineName, baseline } from './stickers/evaluation/baselines.js';
export { type FeatureStatistics, featureStatistics, frechetDistance } from './stickers/evaluation/frechet.js';
export { type ClipShape, frameDifferenceError, psnr, ssim } from './stickers/evaluation/metrics.js';
export {
  CLIP_LAYOUTS,
  type ClipLayout,
  type FeatureExtractor,
  OnnxFeatures,
  type OnnxFeaturesOptions,
} from './stickers/evaluation/onnx-features.js';
export {
  type Exported,
  type ExportOptions,
  exportAnimation,
  STICKER_FORMATS,
  type StickerFormat,
  saveAnimation,
} from './stickers/export.js';
export { KEY_FRAME_METHODS, type KeyFrameMethod, keyFrames } from './stickers/key-frames.js';
export type { GivenFrame } from './stickers/known-frames.js';
export type { StickerMetrics, StickerStep, TaskLoss } from './stickers/metrics.js';
export type { Parts, SavedPipeline } from './stickers/parts.js';
export { type GenerateOptions, type PipelineOptions, StickerPipeline } from './stickers/pipeline.js';
export { PREDICTIONS, type Prediction } from './stickers/prediction.js';
export { Ddim, type DdimOptions } from './stickers/samplers/ddim.js';
export { DpmSolver, type DpmSolverOptions } from './stickers/samplers/dpm-solver.js';
export {
  guide,
  type SampleOptions,
  type Sampler,
  type Spacing,
  sample,
} from './stickers/samplers/sampler.js';
export { NoiseSchedule, type NoiseScheduleOptions } from './stickers/samplers/schedule.js';
export type { StickerTrainerOptions, TrainerSettings } from './stickers/settings.js';
export type { EnteringClips, Space, SpaceShape } from './stickers/space.js';
export { Sticker } from './stickers/sticker.js';
export { DRAWINGS, type Drawing } from './stickers/synthetic/drawings.js';
export { type DrawOptions, drawSticker, generateStickers } from './stickers/synthetic/generate.js';
export { type Condition, conditionMasks, drawCondition, TASKS, type Task } from './stickers/tasks.js';
export type { CaptionInput, TextSource, TextSourceSettings } from './stickers/text-source.js';
export { StickerTrainer } from './stickers/trainer.js';
export { readSafetensors, systemInfo, writeSafetensors } from './system.js';
