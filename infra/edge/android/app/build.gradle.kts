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

    // -Pbundles=/path/to/folder names the folder that holds `bundle`, as srmill fetch wrote it.
    providers.gradleProperty("bundles").orNull?.let { sourceSets["main"].assets.srcDir(it) }
}

kotlin { jvmToolchain(17) }

dependencies { implementation("org.pytorch:executorch-android:1.5.1") }
