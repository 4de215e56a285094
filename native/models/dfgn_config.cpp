#include "models/dfgn_config.h"

#include "core/error.h"

namespace duet {

namespace {
void atLeast(const char* field, int64_t value, int64_t least) {
  require(value >= least, "Expected an integer of at least ", least, " for ", field, " but received ", value);
}
}  // namespace

void DfgnConfig::validate() const {
  atLeast("channels", channels, 1);
  require(!blockChannels.empty(), "Expected at least one width for blockChannels but received none");
  atLeast("layersPerBlock", layersPerBlock, 1);
  atLeast("normGroups", normGroups, 1);
  atLeast("textWidth", textWidth, 1);
  atLeast("t5Width", t5Width, 0);
  atLeast("headSize", headSize, 1);
  atLeast("frames", frames, 1);
  for (int64_t width : blockChannels) {
    atLeast("blockChannels", width, 1);
    require(width % normGroups == 0, "Expected blockChannels divisible by normGroups (", normGroups,
            ") but received ", width);
    require(width % headSize == 0, "Expected blockChannels divisible by headSize (", headSize,
            ") but received ", width);
  }
  if (captionEncoder) captionEncoder->validate(textWidth);
  require(blockChannels.front() % 2 == 0,
          "Expected an even first width of blockChannels (sines and cosines of the time) but received ",
          blockChannels.front());
}

void DfgnConfig::checkSize(int64_t height, int64_t width) const {
  int64_t h = height, w = width;
  for (int64_t level = 1; level < levels(); ++level) {
    h = (h + 1) / 2;
    w = (w + 1) / 2;
  }
  const int64_t least = (int64_t{1} << (levels() - 1)) + 1;
  require(h >= 2 && w >= 2, "Expected pictures of at least ", least, " x ", least, " for a network of ",
          levels(), " levels but received ", height, " x ", width, "; use larger pictures or fewer levels");
}

}  // namespace duet
