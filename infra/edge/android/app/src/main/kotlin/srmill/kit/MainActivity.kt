package srmill.kit

import android.app.Activity
import android.content.ContentValues
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.provider.MediaStore
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import java.io.File
import java.io.IOException
import java.util.concurrent.CancellationException
import java.util.concurrent.Executors
import java.util.concurrent.Future
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** The artifact that the app runs; the bundle lies in the app's assets, in `bundle`. */
private const val TARGET = "executorch_int8"

/** The key that the bundle must be signed by (ed25519, PEM); null to take any bundle. */
private val PUBLIC_KEY: String? = null

/** Lets the user choose a photo, upscales it, shows it, and saves it among the pictures. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()
    private var task: Future<*>? = null
    private lateinit var status: TextView
    private lateinit var bar: ProgressBar
    private lateinit var picture: ImageView
    private lateinit var choose: Button
    private lateinit var cancel: Button

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        status = TextView(this).apply { text = "Choose a photo to upscale." }
        bar = ProgressBar(this, null, android.R.attr.progressBarStyleHorizontal)
        picture = ImageView(this)
        choose =
            Button(this).apply {
                text = "Choose a photo"
                setOnClickListener { chooseAPhoto() }
            }
        cancel =
            Button(this).apply {
                text = "Cancel"
                isEnabled = false
                setOnClickListener {
                    status.text = "Cancelling …"
                    task?.cancel(true)
                }
            }
        val column = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL }
        column.fitsSystemWindows = true
        listOf(choose, cancel, status, bar, picture).forEach(column::addView)
        setContentView(column)
    }

    override fun onDestroy() {
        worker.shutdownNow()
        super.onDestroy()
    }

    private fun chooseAPhoto() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).setType("image/*")
        startActivityForResult(intent.addCategory(Intent.CATEGORY_OPENABLE), 1)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        super.onActivityResult(request, result, data)
        val photo = data?.data ?: return
        setBusy(true)
        task = worker.submit { work(photo) }
    }

    /** Runs on the worker's thread. */
    private fun work(source: Uri) {
        var saved: Uri? = null
        val message =
            try {
                saved = upscaleAndSave(source)
                "The picture is saved in Pictures."
            } catch (error: CancellationException) {
                "Cancelled. Nothing was saved."
            } catch (error: Refused) {
                error.message
            } catch (error: IOException) {
                "The photo cannot be read, or the picture cannot be saved (${error.message})."
            } catch (error: OutOfMemoryError) {
                "The photo is too large for this phone: choose a smaller one."
            } catch (error: LinkageError) {
                "ExecuTorch does not run on this phone (${error.message})."
            } catch (error: RuntimeException) {
                "The picture cannot be made (${error.message})."
            }
        val shown = saved?.let(::preview)
        runOnUiThread {
            picture.setImageBitmap(shown)
            status.text = message
            setBusy(false)
        }
    }

    private fun preview(saved: Uri): Bitmap? =
        try {
            decode(saved, resources.displayMetrics.widthPixels)
        } catch (error: IOException) {
            null
        }

    private fun upscaleAndSave(source: Uri): Uri {
        val artifact = openArtifact(installedBundle(), TARGET, PUBLIC_KEY)
        val photo = BitmapPhoto(decode(source))
        val shape = longArrayOf(1, 3, artifact.tile.toLong(), artifact.tile.toLong())
        val module = Module.load(artifact.file.path)
        try {
            val model = Model { tile ->
                endIfCancelled()
                val input = EValue.from(Tensor.fromBlob(tile, shape))
                module.forward(input)[0].toTensor().dataAsFloatArray
            }
            return save(photo.width * artifact.scale, photo.height * artifact.scale) { write ->
                upscale(photo, model, artifact.tile, artifact.scale, ::show, write)
            }
        } finally {
            module.destroy()
        }
    }

    private fun endIfCancelled() {
        if (Thread.interrupted()) {
            throw CancellationException()
        }
    }

    private fun show(done: Int, all: Int) {
        runOnUiThread {
            bar.max = all
            bar.progress = done
            status.text = "$done of $all rows of tiles"
        }
    }

    private fun setBusy(busy: Boolean) {
        choose.isEnabled = !busy
        cancel.isEnabled = busy
        bar.progress = 0
    }

    /** Copies the bundle from the app's assets: ExecuTorch wants a file. */
    private fun installedBundle(): File {
        val folder = File(noBackupFilesDir, "bundle")
        folder.deleteRecursively()
        if (assets.list("bundle").isNullOrEmpty()) {
            throw Refused("The app holds no bundle: build it with -Pbundles, see docs/phone.md.")
        }
        copyAssets("bundle", folder)
        return folder
    }

    private fun copyAssets(path: String, target: File) {
        endIfCancelled()
        val names = assets.list(path).orEmpty()
        if (names.isEmpty()) {
            target.parentFile?.mkdirs()
            assets.open(path).use { from -> target.outputStream().use { from.copyTo(it) } }
        }
        names.forEach { copyAssets("$path/$it", File(target, it)) }
    }

    /** Returns a photo, upright; with `side`, no side of it is longer. */
    private fun decode(source: Uri, side: Int = Int.MAX_VALUE): Bitmap =
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, source)) {
            decoder, info, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            var sample = 1
            while (maxOf(info.size.width, info.size.height) / sample > side) {
                sample *= 2
            }
            decoder.setTargetSampleSize(sample)
        }

    /** Saves a picture whole, or not at all. */
    private fun save(width: Int, height: Int, rows: ((ByteArray) -> Unit) -> Unit): Uri {
        val facts =
            ContentValues().apply {
                put(MediaStore.MediaColumns.DISPLAY_NAME, "${System.currentTimeMillis()}.png")
                put(MediaStore.MediaColumns.MIME_TYPE, "image/png")
                put(MediaStore.MediaColumns.IS_PENDING, 1)
            }
        val target =
            contentResolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, facts)
                ?: throw IOException("there is no place for it")
        try {
            val stream = contentResolver.openOutputStream(target) ?: throw IOException("no access")
            stream.buffered().use { output ->
                PngWriter(output, width, height).use { rows(it::write) }
            }
            facts.clear()
            facts.put(MediaStore.MediaColumns.IS_PENDING, 0)
            contentResolver.update(target, facts, null, null)
            return target
        } catch (error: Throwable) {
            contentResolver.delete(target, null, null)
            throw error
        }
    }
}

private class BitmapPhoto(private val bitmap: Bitmap) : Photo {
    override val width
        get() = bitmap.width

    override val height
        get() = bitmap.height

    override fun read(row: Int, pixels: IntArray) =
        bitmap.getPixels(pixels, 0, width, 0, row, width, 1)
}
