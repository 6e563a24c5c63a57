// Upscales a photo with a bundle's ncnn artifact:
//
//     upscale BUNDLE PHOTO RESULT [--target ncnn_fp16] [--public-key public.pem]
//
// Copy this file into your own program: it shows all that an app has to do. Verify the bundle, turn
// the photo upright, cut tiles that share a quarter, run each, blend where they overlap.

#include <libexif/exif-data.h>
#include <net.h>
#include <simpleocv.h>
#include <sodium.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#if !NCNN_SIMPLEOCV
#error "this ncnn reads no pictures: build one with -DNCNN_SIMPLEOCV=ON"
#endif

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char DAMAGED[] = "bundle.json is damaged: fetch the bundle again.";

// A mistake of the user, in one sentence.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::string content_of(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file || fs::is_directory(path)) {
        throw Refused(path.string() + " cannot be read.");
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

const unsigned char* bytes(const std::string& text) {
    return reinterpret_cast<const unsigned char*>(text.data());
}

std::string sha256(const std::string& content) {
    std::array<unsigned char, crypto_hash_sha256_BYTES> found;
    crypto_hash_sha256(found.data(), bytes(content), content.size());
    std::array<char, 2 * found.size() + 1> text;
    return sodium_bin2hex(text.data(), text.size(), found.data(), found.size());
}

// Refuses `message` without an ed25519 signature by the owner of a public key (PEM).
void check_signature(const std::string& message, const fs::path& signature, const fs::path& pem) {
    const std::string text = content_of(pem), begin = "-----BEGIN PUBLIC KEY-----";
    // RFC 8410: what stands before the 32 bytes of any ed25519 key.
    constexpr std::array<unsigned char, 12> ED25519 = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                                                       0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
    std::array<unsigned char, ED25519.size() + crypto_sign_PUBLICKEYBYTES> der;
    const size_t start = text.find(begin), end = text.find("-----END", start + begin.size());
    size_t length = 0;
    if (start == std::string::npos || end == std::string::npos ||
        sodium_base642bin(der.data(), der.size(), text.data() + start + begin.size(),
                          end - start - begin.size(), "\r\n", &length, nullptr,
                          sodium_base64_VARIANT_ORIGINAL) != 0 ||
        length != der.size() || !std::equal(ED25519.begin(), ED25519.end(), der.begin())) {
        throw Refused(pem.string() + " is no public ed25519 key in PEM.");
    }
    if (!fs::is_regular_file(signature)) {
        throw Refused("the bundle is not signed: sign it with srmill sign.");
    }
    const std::string signed_by = content_of(signature);
    const unsigned char* key = der.data() + ED25519.size();
    if (signed_by.size() != crypto_sign_BYTES ||
        crypto_sign_verify_detached(bytes(signed_by), bytes(message), message.size(), key) != 0) {
        throw Refused("the bundle's signature was not made by this key for this bundle.");
    }
}

struct Model {
    ncnn::Net net;
    std::string input, output;
    int tile = 0, scale = 0;
};

// Loads an artifact of a bundle, after a check of every file.
void load(Model& model, const fs::path& bundle, const std::string& target,
          const std::optional<fs::path>& key) {
    const std::string text = content_of(bundle / "bundle.json");
    if (key) {
        check_signature(text, bundle / "bundle.json.sig", *key);
    }
    const json facts = json::parse(text);
    const fs::path root = fs::canonical(bundle);
    for (const auto& [name, listed] : facts.at("files").items()) {
        const fs::path path = fs::weakly_canonical(root / name);
        if (*path.lexically_relative(root).begin() == "..") {
            throw Refused("bundle.json names " + name + ", which lies outside the bundle.");
        }
        if (!fs::is_regular_file(path) || sha256(content_of(path)) != listed.at("sha256")) {
            throw Refused(name + " is missing or damaged: fetch the bundle again.");
        }
    }
    if (!facts.at("edge").contains(target)) {
        std::string others;
        for (const auto& [name, artifact] : facts.at("edge").items()) {
            others += (others.empty() ? "" : ", ") + name;
        }
        throw Refused("the bundle has no " + target + "; it has " +
                      (others.empty() ? "none" : others) + ".");
    }
    const json& artifact = facts.at("edge").at(target);
    const fs::path graph = artifact.at("file").get<std::string>();
    const fs::path weights = fs::path(graph).replace_extension(".bin");
    for (const fs::path& file : {graph, weights}) {
        if (!facts.at("files").contains(file.string())) {
            throw Refused(target + " is no artifact of ncnn, or bundle.json does not list " +
                          file.string() + ".");
        }
    }
    model.net.opt.openmp_blocktime = 0;  // threads that wait leave the processor to others
    if (model.net.load_param((root / graph).c_str()) != 0 ||
        model.net.load_model((root / weights).c_str()) != 0) {
        throw Refused(graph.string() + " is no network that this ncnn can run.");
    }
    model.input = artifact.at("input").at("name");
    model.output = artifact.at("output").at("name");
    model.tile = artifact.at("input").at("shape").at(2);
    model.scale = facts.at("scale");
    if (std::min(model.tile, model.scale) < 1 || model.tile > 4096 || model.scale > 16) {
        throw Refused(DAMAGED);
    }
}

// A photo as BGR bytes, upright.
cv::Mat read(const fs::path& path) {
    const cv::Mat stored = cv::imread(path.string(), cv::IMREAD_COLOR);
    if (stored.empty()) {
        throw Refused(path.string() + " is no photo that can be read.");
    }
    int orientation = 1;
    if (ExifData* data = exif_data_new_from_file(path.c_str())) {
        // The other directories tell of a thumbnail, if there is one.
        const ExifEntry* entry =
            exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
        if (entry != nullptr && entry->size >= 2) {
            orientation = exif_get_short(entry->data, exif_data_get_byte_order(data));
        }
        exif_data_unref(data);
    }
    if (orientation < 2 || orientation > 8) {
        return stored;
    }
    const bool turned = orientation >= 5;
    const int height = turned ? stored.cols : stored.rows;
    cv::Mat upright(height, turned ? stored.rows : stored.cols, CV_8UC3);
    ncnn::kanna_rotate_c3(stored.data, stored.cols, stored.rows, upright.data, upright.cols,
                          upright.rows, orientation);
    return upright;
}

// The tiles along one side of a photo: where each begins in LR, and how much each of its HR pixels
// counts. Neighbours share a quarter at least. The weights of a pixel sum to one.
struct Axis {
    std::vector<int> starts;
    std::vector<std::vector<float>> weights;

    Axis(int pixels, int tile, int scale) {
        const int length = std::max(pixels, tile), overlap = tile / 4, side = tile * scale;
        const int step = tile - overlap, count = (length - overlap + step - 1) / step;
        std::vector<float> ramp(side), sum(length * scale);
        for (int i = 0; i < side; ++i) {
            ramp[i] = std::min(1.f, (std::min(i, side - 1 - i) + .5f) / (overlap * scale));
        }
        for (int number = 0; number < count; ++number) {
            starts.push_back(std::min(number * step, length - tile));
            for (int i = 0; i < side; ++i) {
                sum[starts.back() * scale + i] += ramp[i];
            }
        }
        for (const int start : starts) {
            weights.push_back(ramp);
            for (int i = 0; i < side; ++i) {
                weights.back()[i] /= sum[start * scale + i];
            }
        }
    }
};

// A photo that is smaller than a tile is mirrored at its lower and right border.
int mirrored(int i, int length) {
    const int period = std::max(1, 2 * (length - 1));
    i %= period;
    return i < length ? i : period - i;
}

ncnn::Mat run(const Model& model, const cv::Mat& photo, int top, int left) {
    ncnn::Mat x_l(model.tile, model.tile, 3), x_h;
    for (int y = 0; y < model.tile; ++y) {
        const unsigned char* row = photo.ptr<unsigned char>(mirrored(top + y, photo.rows));
        for (int x = 0; x < model.tile; ++x) {
            const unsigned char* bgr = row + 3 * mirrored(left + x, photo.cols);
            for (int c = 0; c < 3; ++c) {
                x_l.channel(c).row(y)[x] = bgr[2 - c] / 255.f;
            }
        }
    }
    ncnn::Extractor extractor = model.net.create_extractor();
    const int side = model.tile * model.scale;
    if (extractor.input(model.input.c_str(), x_l) != 0 ||
        extractor.extract(model.output.c_str(), x_h) != 0 || x_h.w != side || x_h.h != side ||
        x_h.c != 3) {
        throw Refused("the artifact does not make what bundle.json says: fetch the bundle again.");
    }
    return x_h;
}

// Whether a picture ends in .jpg or .jpeg, and not in .png.
bool is_jpeg(const fs::path& path) {
    std::string kind = path.extension().string();
    std::transform(kind.begin(), kind.end(), kind.begin(), ::tolower);
    if (kind != ".png" && kind != ".jpg" && kind != ".jpeg") {
        throw Refused(path.string() + " must end in .png or .jpg.");
    }
    return kind != ".png";
}

// Refuses a photo whose result is too large for ncnn's pictures, or for a JPEG.
void check_size(const cv::Mat& photo, int scale, bool jpeg) {
    const long long width = static_cast<long long>(photo.cols) * scale;
    const long long height = static_cast<long long>(photo.rows) * scale;
    if ((3 * width + 1) * height > INT_MAX || (jpeg && std::max(width, height) > 65535)) {
        throw Refused("the result would have " + std::to_string(width) + " x " +
                      std::to_string(height) + " pixels, which is too large: cut the photo.");
    }
}

// The photo, upscaled. Beside it lies one row of tiles in memory, as floats.
cv::Mat upscale(const Model& model, const cv::Mat& photo) {
    const int scale = model.scale, side = model.tile * scale;
    const Axis rows(photo.rows, model.tile, scale), columns(photo.cols, model.tile, scale);
    cv::Mat result(photo.rows * scale, photo.cols * scale, CV_8UC3);
    const size_t width = 3 * static_cast<size_t>(columns.starts.back() * scale + side);
    std::vector<float> band(side * width);
    for (size_t r = 0; r < rows.starts.size(); ++r) {
        for (size_t k = 0; k < columns.starts.size(); ++k) {
            const ncnn::Mat x_h = run(model, photo, rows.starts[r], columns.starts[k]);
            for (int c = 0; c < 3; ++c) {
                for (int y = 0; y < side; ++y) {
                    const float* from = x_h.channel(c).row(y);
                    float* to = &band[y * width + 3 * columns.starts[k] * scale + 2 - c];
                    for (int x = 0; x < side; ++x) {
                        to[3 * x] += from[x] * rows.weights[r][y] * columns.weights[k][x];
                    }
                }
            }
        }
        // The rows above the next tiles are whole.
        const int top = rows.starts[r] * scale;
        const bool last = r + 1 == rows.starts.size();
        const int done = last ? side : rows.starts[r + 1] * scale - top;
        for (int y = 0; y < std::min(done, result.rows - top); ++y) {
            unsigned char* to = result.ptr<unsigned char>(top + y);
            for (int x = 0; x < 3 * result.cols; ++x) {
                to[x] = std::lrint(std::clamp(band[y * width + x], 0.f, 1.f) * 255);
            }
        }
        band.erase(band.begin(), band.begin() + done * width);
        band.resize(side * width);
        if (isatty(STDERR_FILENO) != 0) {
            std::fprintf(stderr, "\r%zu of %zu rows of tiles%s", r + 1, rows.starts.size(),
                         last ? "\n" : "");
        }
    }
    return result;
}

// Writes a picture whole, or not at all.
void write(const cv::Mat& picture, const fs::path& path) {
    fs::path part = path;
    part.replace_filename(path.stem().string() + ".part" + path.extension().string());
    // imwrite sees no full disk: a whole picture ends with its format's last mark.
    const std::string mark =
        is_jpeg(path) ? "\xff\xd9" : std::string("IEND\xae\x42\x60\x82", 8);
    std::error_code failed;
    bool whole = !fs::is_directory(path) &&
                 cv::imwrite(part.string(), picture, {cv::IMWRITE_JPEG_QUALITY, 95});
    if (whole) {
        const std::string written = content_of(part);
        whole = written.size() > mark.size() &&
                written.compare(written.size() - mark.size(), mark.size(), mark) == 0;
    }
    if (whole) {
        fs::rename(part, path, failed);
    }
    if (!whole || failed) {
        fs::remove(part, failed);
        throw Refused(path.string() + " cannot be written.");
    }
}

constexpr char USAGE[] =
    "usage: upscale BUNDLE PHOTO RESULT [--target ncnn_fp16] [--public-key public.pem]\n"
    "\n"
    "Upscales a photo with a bundle's ncnn artifact.\n"
    "\n"
    "BUNDLE        directory that srmill fetch wrote\n"
    "PHOTO         a photo: JPEG or PNG\n"
    "RESULT        the picture to write: .png or .jpg\n"
    "--target      artifact (default: ncnn_fp16)\n"
    "--public-key  key that the bundle must be signed by\n";

int main(int count, char** given) {
    std::string target = "ncnn_fp16";
    std::optional<fs::path> key;
    std::vector<std::string> paths;
    for (int i = 1; i < count; ++i) {
        const std::string argument = given[i];
        if (argument == "--help" || argument == "-h") {
            std::fputs(USAGE, stdout);
            return EXIT_SUCCESS;
        }
        if (argument == "--target" && i + 1 < count) {
            target = given[++i];
        } else if (argument == "--public-key" && i + 1 < count && *given[i + 1] != '\0') {
            key = given[++i];
        } else if (argument.rfind("--", 0) == 0) {
            std::fprintf(stderr, "%s\nerror: %s is unknown, or lacks its value.\n", USAGE,
                         argument.c_str());
            return 2;
        } else {
            paths.push_back(argument);
        }
    }
    if (paths.size() != 3) {
        std::fprintf(stderr, "%s\nerror: three paths are needed.\n", USAGE);
        return 2;
    }
    try {
        const bool jpeg = is_jpeg(paths[2]);
        if (sodium_init() < 0) {
            throw Refused("libsodium does not start.");
        }
        Model model;
        load(model, paths[0], target, key);
        const cv::Mat photo = read(paths[1]);
        check_size(photo, model.scale, jpeg);
        write(upscale(model, photo), paths[2]);
    } catch (const json::exception&) {
        std::fprintf(stderr, "error: %s\n", DAMAGED);
        return EXIT_FAILURE;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
