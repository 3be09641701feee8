"""What a model keeps of its accuracy when images change: occlusion, order, patches, attacks."""
