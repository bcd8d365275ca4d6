"""Data: files → records → batches. numpy, OpenCV and Grain; nothing here touches a device."""
