// Upscales a photo with a bundle's artifact, by ncnn or ONNX Runtime:
//
//     upscale BUNDLE PHOTO RESULT [--target ncnn_fp16] [--public-key public.pem]
//
// Copy these files into your own program: they show all that an app has to do. Verify the bundle,
// turn the photo upright, cut tiles that share a quarter, run each, blend where they overlap.

#include <libexif/exif-data.h>
#include <sodium.h>
#include <stb_image.h>
#include <stb_image_write.h>
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
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "network.h"

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char DAMAGED[] = "bundle.json is damaged: fetch the bundle again.";

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

// Returns an artifact of a bundle, after a check of every file.
Artifact verified(const fs::path& bundle, const std::string& target,
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
    const json& listed = facts.at("edge").at(target);
    const fs::path graph = listed.at("file").get<std::string>();
    for (const fs::path& file : files_of(graph)) {
        if (!facts.at("files").contains(file.string())) {
            throw Refused(target + " is no artifact of " + RUNTIME +
                          ", or bundle.json does not list " + file.string() + ".");
        }
    }
    if (listed.value("others", json::array()).size() >= files_of(graph).size()) {
        throw Refused(target + " is not one network of " + RUNTIME +
                      ": name another artifact.");
    }
    const json& shape = listed.at("input").at("shape");
    const json& side = shape.at(shape.size() - 1);  // null: any size
    Artifact artifact;
    artifact.graph = root / graph;
    artifact.input = listed.at("input").at("name");
    artifact.output = listed.at("output").at("name");
    artifact.tile = side.is_null() ? facts.at("tile") : side;
    artifact.scale = facts.at("scale");
    if (std::min(artifact.tile, artifact.scale) < 1 || artifact.tile > 4096 ||
        artifact.scale > 16) {
        throw Refused(DAMAGED);
    }
    return artifact;
}

// A picture, three bytes per pixel: R, G, B.
struct Picture {
    int width = 0, height = 0;
    std::vector<unsigned char> rgb;

    Picture(int width, int height)
        : width(width), height(height), rgb(3 * static_cast<size_t>(width) * height) {}

    unsigned char* at(int y, int x) { return &rgb[3 * (static_cast<size_t>(y) * width + x)]; }
    const unsigned char* at(int y, int x) const {
        return &rgb[3 * (static_cast<size_t>(y) * width + x)];
    }
};

// Which side of a photo is up, as EXIF counts: 1 to 8.
int orientation_of(const fs::path& path) {
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
    return orientation < 1 || orientation > 8 ? 1 : orientation;
}

// A photo, upright.
Picture read(const fs::path& path) {
    int width = 0, height = 0, channels = 0;
    const std::unique_ptr<unsigned char, decltype(&stbi_image_free)> stored(
        stbi_load(path.c_str(), &width, &height, &channels, 3), stbi_image_free);
    if (!stored) {
        throw Refused(path.string() + " is no photo that can be read.");
    }
    const int orientation = orientation_of(path);
    const bool turned = orientation >= 5;  // rows become columns
    const bool right_to_left = orientation == 2 || orientation == 3 || orientation >= 7;
    const bool bottom_up = orientation == 3 || orientation == 4 || orientation == 6 ||
                           orientation == 7;
    Picture upright(turned ? height : width, turned ? width : height);
    for (int y = 0; y < upright.height; ++y) {
        for (int x = 0; x < upright.width; ++x) {
            const int along = turned ? y : x, down = turned ? x : y;
            const size_t column = right_to_left ? width - 1 - along : along;
            const size_t row = bottom_up ? height - 1 - down : down;
            std::copy_n(stored.get() + 3 * (row * width + column), 3, upright.at(y, x));
        }
    }
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

// The LR tile [3, tile, tile] of a photo, in [0, 1].
void cut(const Picture& photo, int top, int left, int tile, std::vector<float>& x_l) {
    const size_t plane = static_cast<size_t>(tile) * tile;
    x_l.resize(3 * plane);
    for (int y = 0; y < tile; ++y) {
        const int row = mirrored(top + y, photo.height);
        for (int x = 0; x < tile; ++x) {
            const unsigned char* rgb = photo.at(row, mirrored(left + x, photo.width));
            for (int c = 0; c < 3; ++c) {
                x_l[c * plane + y * tile + x] = rgb[c] / 255.f;
            }
        }
    }
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

// Refuses a photo whose result is too large for stb's pictures, or for a JPEG.
void check_size(const Picture& photo, int scale, bool jpeg) {
    const long long width = static_cast<long long>(photo.width) * scale;
    const long long height = static_cast<long long>(photo.height) * scale;
    if ((3 * width + 1) * height > INT_MAX || (jpeg && std::max(width, height) > 65535)) {
        throw Refused("the result would have " + std::to_string(width) + " x " +
                      std::to_string(height) + " pixels, which is too large: cut the photo.");
    }
}

// The photo, upscaled. Beside it lies one row of tiles in memory, as floats.
Picture upscale(Network& network, const Artifact& artifact, const Picture& photo) {
    const int scale = artifact.scale, side = artifact.tile * scale;
    const Axis rows(photo.height, artifact.tile, scale);
    const Axis columns(photo.width, artifact.tile, scale);
    Picture result(photo.width * scale, photo.height * scale);
    const size_t width = 3 * static_cast<size_t>(columns.starts.back() * scale + side);
    std::vector<float> band(side * width), x_l, x_h;
    for (size_t r = 0; r < rows.starts.size(); ++r) {
        for (size_t k = 0; k < columns.starts.size(); ++k) {
            cut(photo, rows.starts[r], columns.starts[k], artifact.tile, x_l);
            const auto is_number = [](float value) { return std::isfinite(value); };
            if (!network.run(x_l, x_h) || !std::all_of(x_h.begin(), x_h.end(), is_number)) {
                throw Refused(
                    "the artifact does not make what bundle.json says: fetch the bundle again.");
            }
            for (int c = 0; c < 3; ++c) {
                for (int y = 0; y < side; ++y) {
                    const float* from = &x_h[(static_cast<size_t>(c) * side + y) * side];
                    float* to = &band[y * width + 3 * columns.starts[k] * scale + c];
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
        for (int y = 0; y < std::min(done, result.height - top); ++y) {
            unsigned char* to = result.at(top + y, 0);
            for (int x = 0; x < 3 * result.width; ++x) {
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

// Appends a piece of an encoded picture to the file that `stream` is.
void append(void* stream, void* data, int size) {
    static_cast<std::ofstream*>(stream)->write(static_cast<const char*>(data), size);
}

// Writes a picture whole, or not at all.
void write(const Picture& picture, const fs::path& path) {
    fs::path part = path;
    part.replace_filename(path.stem().string() + ".part" + path.extension().string());
    std::error_code failed;
    std::ofstream file;
    if (!fs::is_directory(path)) {
        file.open(part, std::ios::binary);
    }
    const int width = picture.width, height = picture.height;
    const bool encoded =
        file.is_open() &&
        (is_jpeg(path)
             ? stbi_write_jpg_to_func(append, &file, width, height, 3, picture.rgb.data(), 95)
             : stbi_write_png_to_func(append, &file, width, height, 3, picture.rgb.data(), 0));
    file.close();  // a full disk is seen here, at the latest
    if (encoded && file) {
        fs::rename(part, path, failed);
    }
    if (!encoded || !file || failed) {
        fs::remove(part, failed);
        throw Refused(path.string() + " cannot be written.");
    }
}

constexpr char USAGE[] =
    "usage: upscale BUNDLE PHOTO RESULT [--target TARGET] [--public-key public.pem]\n"
    "\n"
    "Upscales a photo with a bundle's artifact.\n"
    "\n"
    "BUNDLE        directory that srmill fetch wrote\n"
    "PHOTO         a photo: JPEG or PNG\n"
    "RESULT        the picture to write: .png or .jpg\n"
    "--target      artifact (default: %s)\n"
    "--public-key  key that the bundle must be signed by\n";

void usage(std::FILE* stream) { std::fprintf(stream, USAGE, DEFAULT_TARGET); }

int main(int count, char** given) {
    std::string target = DEFAULT_TARGET;
    std::optional<fs::path> key;
    std::vector<std::string> paths;
    for (int i = 1; i < count; ++i) {
        const std::string argument = given[i];
        if (argument == "--help" || argument == "-h") {
            usage(stdout);
            return EXIT_SUCCESS;
        }
        if (argument == "--target" && i + 1 < count) {
            target = given[++i];
        } else if (argument == "--public-key" && i + 1 < count && *given[i + 1] != '\0') {
            key = given[++i];
        } else if (argument.rfind("--", 0) == 0) {
            usage(stderr);
            std::fprintf(stderr, "\nerror: %s is unknown, or lacks its value.\n",
                         argument.c_str());
            return 2;
        } else {
            paths.push_back(argument);
        }
    }
    if (paths.size() != 3) {
        usage(stderr);
        std::fputs("\nerror: three paths are needed.\n", stderr);
        return 2;
    }
    try {
        const bool jpeg = is_jpeg(paths[2]);
        if (sodium_init() < 0) {
            throw Refused("libsodium does not start.");
        }
        const Artifact artifact = verified(paths[0], target, key);
        const std::unique_ptr<Network> network = load_network(artifact);
        const Picture photo = read(paths[1]);
        check_size(photo, artifact.scale, jpeg);
        write(upscale(*network, artifact, photo), paths[2]);
    } catch (const json::exception&) {
        std::fprintf(stderr, "error: %s\n", DAMAGED);
        return EXIT_FAILURE;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
