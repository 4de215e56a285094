// GIF89a: header, one global colour table, the loop extension, and per frame a control block, a rectangle and
// its indices packed by LZW (Welch 1984, with GIF's variable code lengths).

#include "data/gif.h"

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "data/palette.h"

namespace duet {
namespace {

constexpr int kMaxColors = 255;
constexpr int kMaxCode = 4096;
constexpr int kLargestSide = 65535;

enum class Disposal : uint8_t { keep = 1, clear = 2 };

struct Rectangle {
  int left = 0, top = 0, width = 1, height = 1;
};

/// Palette and indices of all frames; the index behind the last colour is the transparent one.
struct Indexed {
  std::vector<uint32_t> colors;
  std::vector<uint8_t> pixels;
  uint8_t transparent() const { return static_cast<uint8_t>(colors.size()); }
};

Indexed indexed(std::span<const uint8_t> rgba, int wanted) {
  Indexed result;
  const size_t count = rgba.size() / 4;
  std::unordered_map<uint32_t, uint8_t> indexOf;
  std::vector<bool> opaque(count);
  std::vector<int64_t> counts(kMaxColors, 0);
  result.pixels.resize(count);
  for (size_t i = 0; i < count; ++i) {
    opaque[i] = rgba[4 * i + 3] >= 128;
    if (!opaque[i]) continue;
    const uint32_t color = rgba[4 * i] << 16 | rgba[4 * i + 1] << 8 | rgba[4 * i + 2];
    const auto [found, isNew] = indexOf.try_emplace(color, static_cast<uint8_t>(result.colors.size()));
    if (isNew) {
      require(result.colors.size() < kMaxColors, "Expected at most ", kMaxColors,
              " different opaque colours in the frames of a GIF but found more; quantise them first");
      result.colors.push_back(color);
    }
    result.pixels[i] = found->second;
    ++counts[found->second];
  }
  counts.resize(result.colors.size());
  const MergedPalette merged = mergedPalette(result.colors, counts, wanted);
  result.colors = merged.colors;
  for (size_t i = 0; i < count; ++i) {
    result.pixels[i] = opaque[i] ? merged.placeOf[result.pixels[i]] : result.transparent();
  }
  return result;
}

class Writer {
 public:
  void byte(int value) { bytes_.push_back(static_cast<uint8_t>(value)); }
  void word(int value) {
    byte(value & 255);
    byte(value >> 8);
  }
  void text(const char* value) {
    for (; *value != 0; ++value) byte(*value);
  }
  /// A chain of blocks of at most 255 bytes.
  void blocks(const std::vector<uint8_t>& data) {
    for (size_t at = 0; at < data.size(); at += 255) {
      const size_t length = std::min<size_t>(255, data.size() - at);
      byte(static_cast<int>(length));
      bytes_.insert(bytes_.end(), data.begin() + at, data.begin() + at + length);
    }
    byte(0);
  }
  std::vector<uint8_t> take() { return std::move(bytes_); }

 private:
  std::vector<uint8_t> bytes_;
};

/// LZW with codes of `bits` + 1 bits at first, up to 12.
std::vector<uint8_t> packed(const std::vector<uint8_t>& indices, int bits) {
  std::vector<uint8_t> out;
  const int clear = 1 << bits, end = clear + 1;
  uint32_t held = 0;
  int heldBits = 0, length = bits + 1, next = end + 1;
  const auto write = [&](int code) {
    held |= static_cast<uint32_t>(code) << heldBits;
    for (heldBits += length; heldBits >= 8; heldBits -= 8, held >>= 8)
      out.push_back(static_cast<uint8_t>(held));
  };
  // The code of a known sequence followed by one more index.
  std::vector<uint16_t> longer(static_cast<size_t>(kMaxCode) * 256, 0);
  std::vector<size_t> used;
  const auto restart = [&] {
    for (const size_t at : used) longer[at] = 0;
    used.clear();
    next = end + 1;
  };
  write(clear);
  int prefix = indices[0];
  for (size_t i = 1; i < indices.size(); ++i) {
    const size_t at = static_cast<size_t>(prefix) * 256 + indices[i];
    if (longer[at] != 0) {
      prefix = longer[at];
      continue;
    }
    write(prefix);
    prefix = indices[i];
    if (next == kMaxCode) {
      write(clear);
      restart();
      length = bits + 1;
      continue;
    }
    longer[at] = static_cast<uint16_t>(next);
    used.push_back(at);
    if (next == 1 << length) ++length;
    ++next;
  }
  write(prefix);
  // A reader adds an entry with this code too, and may need another bit for the one that follows.
  if (next == 1 << length && length < 12) ++length;
  write(end);
  if (heldBits > 0) out.push_back(static_cast<uint8_t>(held));
  return out;
}

/// The smallest rectangle around the pixels that `wanted` accepts; one pixel when there is none.
template <typename Wanted>
Rectangle around(int width, int height, const Wanted& wanted) {
  int left = width, right = -1, top = height, bottom = -1;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      if (!wanted(static_cast<size_t>(y) * width + x)) continue;
      left = std::min(left, x);
      right = std::max(right, x);
      top = std::min(top, y);
      bottom = std::max(bottom, y);
    }
  }
  if (right < 0) return {};
  return {left, top, right - left + 1, bottom - top + 1};
}

bool becomesTransparent(const Indexed& all, size_t frame, size_t frames) {
  for (size_t i = frame; i < frame * frames; ++i) {
    if (all.pixels[i] == all.transparent() && all.pixels[i - frame] != all.transparent()) return true;
  }
  return false;
}

void writeFrame(Writer& out, const std::vector<uint8_t>& pixels, int width, Rectangle at, int delay,
                Disposal disposal, int bits, uint8_t transparent) {
  out.byte(0x21);  // graphic control
  out.byte(0xf9);
  out.byte(4);
  out.byte(static_cast<int>(disposal) << 2 | 1);
  out.word(delay);
  out.byte(transparent);
  out.byte(0);
  out.byte(0x2c);  // picture
  out.word(at.left);
  out.word(at.top);
  out.word(at.width);
  out.word(at.height);
  out.byte(0);
  std::vector<uint8_t> inside;
  for (int y = at.top; y < at.top + at.height; ++y) {
    const auto row = pixels.begin() + static_cast<size_t>(y) * width + at.left;
    inside.insert(inside.end(), row, row + at.width);
  }
  out.byte(bits);
  out.blocks(packed(inside, bits));
}

}  // namespace

std::vector<uint8_t> encodeGif(std::span<const uint8_t> rgba, int width, int height,
                               const std::vector<int>& delays, int plays, int colors) {
  require(width >= 1 && width <= kLargestSide && height >= 1 && height <= kLargestSide,
          "Expected a GIF of 1x1 to 65535x65535 pixels but received ", width, "x", height);
  const size_t frames = delays.size(), frame = static_cast<size_t>(width) * height;
  require(frames >= 1 && rgba.size() == frame * frames * 4, "Expected ", frame * frames * 4,
          " bytes of RGBA for ", frames, " frames of ", width, "x", height, " but received ", rgba.size());
  require(colors >= 1 && colors <= kMaxColors, "Expected 1 to ", kMaxColors, " colours but received ",
          colors);
  const Indexed all = indexed(rgba, colors);
  int bits = 2;  // the smallest that LZW in GIF knows
  while (1 << bits < static_cast<int>(all.colors.size()) + 1) ++bits;

  Writer out;
  out.text("GIF89a");
  out.word(width);
  out.word(height);
  out.byte(0x80 | 7 << 4 | (bits - 1));
  out.byte(all.transparent());
  out.byte(0);
  for (int i = 0; i < 1 << bits; ++i) {
    const uint32_t color = i < static_cast<int>(all.colors.size()) ? all.colors[i] : 0;
    out.byte(color >> 16);
    out.byte(color >> 8 & 255);
    out.byte(color & 255);
  }
  if (plays != 1) {
    out.byte(0x21);
    out.byte(0xff);
    out.byte(11);
    out.text("NETSCAPE2.0");
    out.byte(3);
    out.byte(1);
    out.word(plays == 0 ? 0 : plays - 1);  // repetitions after the first time
    out.byte(0);
  }

  const bool clears = becomesTransparent(all, frame, frames);
  for (size_t f = 0; f < frames; ++f) {
    const auto from = all.pixels.begin() + f * frame;
    std::vector<uint8_t> pixels(from, from + frame);
    if (!clears && f > 0) {
      const uint8_t* before = all.pixels.data() + (f - 1) * frame;
      for (size_t i = 0; i < frame; ++i) {
        if (pixels[i] == before[i]) pixels[i] = all.transparent();
      }
    }
    // The first frame spans the canvas: some readers take its size for that of the picture.
    const Rectangle at =
        f == 0 ? Rectangle{0, 0, width, height}
               : around(width, height, [&](size_t i) { return pixels[i] != all.transparent(); });
    writeFrame(out, pixels, width, at, delays[f], clears ? Disposal::clear : Disposal::keep, bits,
               all.transparent());
  }
  out.byte(0x3b);
  return out.take();
}

}  // namespace duet
