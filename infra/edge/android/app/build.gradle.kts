plugins {
    id("com.android.application") version "8.13.0"
    id("org.jetbrains.kotlin.android") version "2.2.20"
}

android {
    namespace = "srmill.kit"
    compileSdk = 36

    defaultConfig {
        minSdk = 29 // the first that lets an app save a picture without a permission
        targetSdk = 36
        versionCode = 1
        versionName = "1"
    }

    // The folder that holds `bundle`, as srmill fetch wrote it: -Pbundles=/path/to/folder.
    sourceSets["main"].assets.srcDir(providers.gradleProperty("bundles").get())
    // The digests are those of the files as they are.
    androidResources { noCompress += listOf("pte", "json") }
}

kotlin { jvmToolchain(17) }

dependencies { implementation("org.pytorch:executorch-android:1.5.1") }
