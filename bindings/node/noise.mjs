// The normal numbers that torch draws on a CPU (sdk/deploy/noise.py has the same in numpy): one seed, one picture.
// MT19937 (Matsumoto and Nishimura, 1998), 24 bits of each word, Box-Muller on blocks of sixteen.

const WORDS = 624;
const SHIFT = 397;
const BLOCK = 16;

export class Noise {
  constructor(seed) {
    this.state = new Uint32Array(WORDS);
    this.state[0] = seed >>> 0;
    for (let i = 1; i < WORDS; i++) {
      const last = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
    this.index = WORDS;
  }

  /** Draw `count` normal numbers, sixteen at least. */
  normal(count) {
    if (count < BLOCK) throw new RangeError(`at least ${BLOCK} numbers are drawn at a time, got ${count}`);
    const values = Float32Array.from({ length: count }, () => this.uniform());
    const whole = count - (count % BLOCK);
    for (let start = 0; start < whole; start += BLOCK) boxMuller(values, start);
    if (whole < count) {
      // The last sixteen are drawn again, as torch does.
      for (let i = count - BLOCK; i < count; i++) values[i] = this.uniform();
      boxMuller(values, count - BLOCK);
    }
    return values;
  }

  uniform() {
    return (this.word() & 0xffffff) / (1 << 24);
  }

  word() {
    if (this.index === WORDS) this.refill();
    let y = this.state[this.index++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  refill() {
    const s = this.state;
    for (let i = 0; i < WORDS; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % WORDS] & 0x7fffffff);
      s[i] = s[(i + SHIFT) % WORDS] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.index = 0;
  }
}

function boxMuller(values, start) {
  const half = BLOCK / 2;
  for (let i = start; i < start + half; i++) {
    const radius = Math.sqrt(-2 * Math.log1p(-values[i]));
    const angle = 2 * Math.PI * values[i + half];
    values[i] = radius * Math.cos(angle);
    values[i + half] = radius * Math.sin(angle);
  }
}
