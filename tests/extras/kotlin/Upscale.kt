/** Runs the app's own code on a desktop. The model is the process at the other end of its pipes. */

package srmill.kit

import java.awt.image.BufferedImage
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import javax.imageio.ImageIO
import kotlin.system.exitProcess

private class ImagePhoto(private val image: BufferedImage) : Photo {
    override val width = image.width
    override val height = image.height

    override fun read(row: Int, pixels: IntArray) {
        image.getRGB(0, row, width, 1, pixels, 0, width)
    }
}

/**
 * Writes the picture of a photo. The arguments are a bundle, a target, a photo, the file to write,
 * and a public key or nothing. The tile's side goes to stdout, and then each tile, as floats; the
 * tiles that the model makes come from stdin.
 */
fun main(arguments: Array<String>) {
    val (bundle, target, source, result) = arguments
    try {
        val key = arguments.getOrNull(4)?.let { File(it).readText() }
        val artifact = openArtifact(File(bundle), target, key)
        val photo = ImagePhoto(ImageIO.read(File(source)))
        val requests = DataOutputStream(System.out.buffered())
        val answers = DataInputStream(System.`in`.buffered())
        val side = artifact.tile * artifact.scale
        requests.writeInt(artifact.tile)
        val model = Model { tile ->
            tile.forEach(requests::writeFloat)
            requests.flush()
            FloatArray(3 * side * side) { answers.readFloat() }
        }
        val progress = { done: Int, all: Int -> System.err.println("$done of $all") }
        File(result).outputStream().buffered().use { output ->
            val (width, height) = listOf(photo.width, photo.height).map { it * artifact.scale }
            PngWriter(output, width, height).use {
                upscale(photo, model, artifact.tile, artifact.scale, progress, it::write)
            }
        }
        requests.close()
    } catch (error: Refused) {
        System.err.println("error: ${error.message}")
        exitProcess(1)
    }
}
