"""zoo_training"""
