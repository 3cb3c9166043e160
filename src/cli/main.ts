#!/usr/bin/env -S node --
import { dispatch } from './dispatch.js';

// Not by exitCode alone: an inherited stdin, or a progress bar, must not keep a finished command waiting.
process.exit(await dispatch(process.argv.slice(2)));
