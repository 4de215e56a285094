/** duet stickers: train a small generator of animated stickers, make stickers with it, and measure it. */

import { Command } from 'commander';
import { stickersEvaluateCommand } from './stickers-evaluate.js';
import { stickersGenerateCommand } from './stickers-generate.js';
import { stickersTrainCommand } from './stickers-train.js';

export function stickersCommand(): Command {
  return new Command('stickers')
    .description('Animated stickers: train a frame generation network from scratch (RDTF) and use it.')
    .addCommand(stickersTrainCommand())
    .addCommand(stickersGenerateCommand())
    .addCommand(stickersEvaluateCommand());
}
