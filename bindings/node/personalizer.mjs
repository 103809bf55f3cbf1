// A merged export (`personalizer export PACK --format onnx`) in Node: a prompt in, a picture out.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import ort from "onnxruntime-node";
import { Noise } from "./noise.mjs";

const MANIFEST = "personalizer_onnx.json";
const json = (...parts) => JSON.parse(readFileSync(join(...parts), "utf8"));

export class Personalizer {
  /** Open a folder that export_onnx wrote. */
  static async open(folder) {
    let about;
    try {
      about = json(folder, MANIFEST);
    } catch {
      throw new Error(`${folder} holds no ${MANIFEST}; give a folder that export_onnx wrote`);
    }
    if (about.kind !== "merged") throw new Error(`${folder} is a ${about.kind} export; export the pack merged`);
    const parts = {};
    for (const part of ["text_encoder", "unet", "vae_decoder"]) {
      const path = join(folder, part, "model.onnx");
      parts[part] = await ort.InferenceSession.create(path, { logSeverityLevel: 3 });
    }
    return new Personalizer(folder, about, parts);
  }

  constructor(folder, about, parts) {
    Object.assign(this, { about, parts });
    const settings = json(folder, "tokenizer", "tokenizer_config.json");
    this.tokenizer = new Tokenizer(json(folder, "tokenizer", "tokenizer.json"), settings);
    this.length = settings.model_max_length;
    this.padding = this.tokenizer.token_to_id(settings.pad_token.content ?? settings.pad_token);
    const unet = json(folder, "unet", "config.json");
    [this.channels, this.side] = [unet.in_channels, unet.sample_size];
    this.scheduler = json(folder, "scheduler", "scheduler_config.json");
    this.alphas = noiseLevels(this.scheduler);
  }

  /** Return { width, height, data }: RGB bytes, row by row. The same seed gives the picture of the Python side. */
  async generate(prompt, { seed = 0, steps = 50, guidance = this.about.guidance_scale, eta = 1, onStep } = {}) {
    if (!(Number.isInteger(steps) && steps >= 1 && steps < 1000)) throw new Error(`steps must lie between 1 and 999, got ${steps}`);
    const known = this.about.concepts.map(({ token }) => token);
    for (const token of prompt.match(/<[\w-]+>/g) ?? [])
      if (!known.includes(token)) throw new Error(`the prompt uses ${token}, which was not learned; it knows ${known.join(", ")}`);
    const states = await this.encode(["", prompt]);
    const shape = [1, this.channels, this.side, this.side];
    const count = this.channels * this.side * this.side;
    const noise = new Noise(seed);
    let sample = noise.normal(count);
    const stride = Math.floor(this.alphas.length / steps);
    for (let step = 0; step < steps; step++) {
      const t = (steps - 1 - step) * stride + this.scheduler.steps_offset;
      const twice = new Float32Array(2 * count);
      twice.set(sample);
      twice.set(sample, count);
      const answer = await this.run("unet", {
        sample: ["float32", twice, [2, ...shape.slice(1)]],
        timestep: ["int64", BigInt64Array.of(BigInt(t)), []],
        encoder_hidden_states: states,
      });
      const scale = Math.max(guidance, 1); // below one there is no guidance, as in diffusers
      const prediction = sample.map((_, i) => answer[i] + scale * (answer[count + i] - answer[i]));
      sample = this.ddim(t, stride, prediction, sample, eta, eta > 0 ? noise.normal(count) : undefined);
      onStep?.(step + 1, steps);
    }
    const latents = sample.map((x) => x / this.about.scaling_factor);
    return toPicture(await this.run("vae_decoder", { latent_sample: ["float32", latents, shape] }));
  }

  async encode(prompts) {
    const ids = prompts.flatMap((prompt) => {
      let own = this.tokenizer.encode(prompt).ids;
      if (own.length > this.length) own = [...own.slice(0, this.length - 1), own.at(-1)]; // the end token stays
      return [...own, ...Array(this.length - own.length).fill(this.padding)];
    });
    const fed = { input_ids: ["int64", BigInt64Array.from(ids, BigInt), [prompts.length, this.length]] };
    const values = await this.run("text_encoder", fed);
    return ["float32", values, [prompts.length, this.length, values.length / ids.length]];
  }

  /** DDIM (Song et al., 2021), equation 12; the model may predict noise or velocity. */
  ddim(t, stride, prediction, sample, eta, noise) {
    const [now, then] = [this.alphas[t], this.alphas[Math.max(t - stride, 0)]];
    const [signal, level] = [Math.sqrt(now), Math.sqrt(1 - now)];
    const deviation = eta * Math.sqrt(((1 - then) / (1 - now)) * (1 - now / then));
    const rest = Math.sqrt(1 - then - deviation ** 2);
    const velocity = this.scheduler.prediction_type === "v_prediction";
    return sample.map((x, i) => {
      const p = prediction[i];
      const clean = velocity ? signal * x - level * p : (x - level * p) / signal;
      const estimated = velocity ? signal * p + level * x : p;
      return Math.sqrt(then) * clean + rest * estimated + (noise ? deviation * noise[i] : 0);
    });
  }

  /** Run a part; return its first output's values. */
  async run(part, fed) {
    const session = this.parts[part];
    const tensors = Object.entries(fed).map(([name, [type, data, dims]]) => [name, new ort.Tensor(type, data, dims)]);
    const results = await session.run(Object.fromEntries(tensors));
    return results[session.outputNames[0]].data;
  }
}

function noiseLevels({ beta_start: first, beta_end: last, beta_schedule: schedule, num_train_timesteps: count }) {
  if (schedule !== "scaled_linear" && schedule !== "linear") throw new Error(`unknown beta schedule ${schedule}`);
  const power = schedule === "scaled_linear" ? 2 : 1;
  const [a, b] = [first ** (1 / power), last ** (1 / power)];
  let product = 1;
  return Float64Array.from({ length: count }, (_, i) => (product *= 1 - (a + ((b - a) * i) / (count - 1)) ** power));
}

function toPicture(values) {
  const pixels = values.length / 3;
  const side = Math.sqrt(pixels);
  const data = new Uint8Array(values.length);
  for (let i = 0; i < pixels; i++)
    for (let c = 0; c < 3; c++) data[3 * i + c] = Math.round(255 * Math.min(Math.max(values[c * pixels + i] / 2 + 0.5, 0), 1));
  return { width: side, height: side, data };
}
